# Three images from one build, the later ones on top of the earlier:
#   docker build --target coordinator -t sab-coordinator .   gRPC service and CLI, no LibTorch
#   docker build --target worker-cpu  -t sab-worker-cpu .    agent and trainer with LibTorch's CPU part
#   docker build --target worker      -t sab-worker .        the same with CUDA, cuDNN and NCCL; sees GPUs when run with --gpus all
# Podman: add --format docker, otherwise HEALTHCHECK is dropped.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
ENV SAB_CACHE_DIR=/opt/sab-cache CCACHE_DIR=/var/cache/ccache DEBIAN_FRONTEND=noninteractive
WORKDIR /src
# What setup needs comes first, so that changed sources do not install it again.
COPY dev ./
COPY cmake/packages.txt cmake/requirements.txt ./cmake/
RUN ./dev setup
COPY . .
RUN --mount=type=cache,target=/var/cache/ccache \
    SAB_PRESET=release ./dev build sabctl sab-coordinator sab-worker sab-trainer \
 && cmake --install build-release --prefix /opt/sab --strip
# LibTorch's libraries that the trainer is linked against, under the path it looks for them; apart from these those of the CUDA
# module, with what CUDA's libraries open by name. Nothing else of the wheels (headers, Python, Triton, compilers) is needed.
RUN set -eu \
 && needs() { ldd "$@" | awk '$3 ~ "^/opt/sab-cache/" {print $3}' | xargs realpath -s | sort -u; } \
 && needs /opt/sab/bin/sab-trainer >/tmp/cpu \
 && { needs /opt/sab/lib/libsab_cuda.so; cd /opt/sab-cache/wheels-*/lib/python3*/site-packages; \
      ls "$PWD"/nvidia/cudnn/lib/*.so.* "$PWD"/nvidia/cu13/lib/libnvrtc.so.* "$PWD"/nvidia/cu13/lib/libnvrtc-builtins.so.* \
         "$PWD"/torch/lib/libcaffe2_nvrtc.so; } | sort -u | comm -23 - /tmp/cpu >/tmp/cuda \
 && mkdir -p /opt/runtime-cpu /opt/runtime-cuda \
 && xargs cp -L --parents -t /opt/runtime-cpu </tmp/cpu \
 && xargs cp -L --parents -t /opt/runtime-cuda </tmp/cuda

FROM ${BASE} AS runtime
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      libgrpc++1.51 libgrpc29 libprotobuf32 libabsl20220623 libspdlog1.10 libprometheus-cpp-core1.0 libcivetweb1 libssl3 zlib1g \
      curl tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/sab sab \
 && mkdir -p /var/lib/sab/state /var/lib/sab/checkpoints && chown -R sab:sab /var/lib/sab
USER sab
WORKDIR /var/lib/sab
ENTRYPOINT ["/usr/bin/tini", "--"]

FROM runtime AS coordinator
USER root
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libsqlite3-0 libyaml-cpp0.7 sqlite3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
USER sab
COPY --from=build /opt/sab/bin/sab-coordinator /opt/sab/bin/sabctl /usr/local/bin/
RUN for program in /usr/local/bin/sab*; do ! ldd "$program" | grep "not found" || exit 1; done
EXPOSE 7070 9464
HEALTHCHECK --interval=3s --timeout=3s --retries=5 CMD curl -fsS http://127.0.0.1:9464/readyz || exit 1
CMD ["sab-coordinator", "--state-dir", "/var/lib/sab/state", "--checkpoint-dir", "/var/lib/sab/checkpoints", \
     "--listen", "0.0.0.0:7070", "--metrics-listen", "0.0.0.0:9464"]

FROM runtime AS worker-cpu
COPY --from=build /opt/runtime-cpu/ /
COPY --from=build /opt/sab/bin/sab-worker /opt/sab/bin/sab-trainer /usr/local/bin/
RUN for program in /usr/local/bin/sab*; do ! ldd "$program" | grep "not found" || exit 1; done
EXPOSE 9465
HEALTHCHECK --interval=3s --timeout=3s --retries=5 CMD curl -fsS http://127.0.0.1:9465/readyz || exit 1
CMD ["sab-worker", "--coordinator", "coordinator:7070", "--state-dir", "/var/lib/sab/state", "--metrics-listen", "0.0.0.0:9465"]

FROM worker-cpu AS worker
COPY --from=build /opt/runtime-cuda/ /
COPY --from=build /opt/sab/lib/ /usr/local/lib/
# All but the driver, which the container toolkit brings.
RUN ! ldd /usr/local/lib/libsab_cuda.so | grep "not found" | grep -v libcuda.so.1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
