# syntax=docker/dockerfile:1
# Two images from one build:
#   docker build --target coordinator -t sab-coordinator .    gRPC service and CLI, no LibTorch
#   docker build --target worker      -t sab-worker .         agent and trainer with LibTorch; uses GPUs when run with --gpus all
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS build
ENV SAB_CACHE_DIR=/opt/sab-cache DEBIAN_FRONTEND=noninteractive
WORKDIR /src
# What setup needs comes first, so that changed sources do not install it again.
COPY dev ./
COPY cmake/packages.txt cmake/requirements.txt ./cmake/
RUN ./dev setup
COPY . .
RUN SAB_PRESET=release ./dev build sabctl sab-coordinator sab-worker sab-trainer \
 && cmake --install build-release --prefix /opt/sab \
 && strip /opt/sab/bin/*
# The trainer finds LibTorch under the path it was linked against: keep that path, and of it the libraries alone.
RUN cd /opt/sab-cache && mkdir -p /opt/runtime \
 && find wheels-*/lib -name '*.so*' -path '*/torch/lib/*' -print0 | xargs -0 cp --parents -at /opt/runtime \
 && find wheels-*/lib -name '*.so*' -path '*/nvidia/*/lib/*' -print0 | xargs -0 cp --parents -at /opt/runtime

FROM ${BASE} AS runtime
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      libgrpc++1.51 libprotobuf32 libspdlog1.10 libyaml-cpp0.7 libsqlite3-0 libssl3 zlib1g \
      libprometheus-cpp-core1.0 libprometheus-cpp-pull1.0 ca-certificates curl tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --home-dir /var/lib/sab sab \
 && mkdir -p /var/lib/sab/state /var/lib/sab/checkpoints && chown -R sab:sab /var/lib/sab
USER sab
VOLUME ["/var/lib/sab/state", "/var/lib/sab/checkpoints"]
ENTRYPOINT ["/usr/bin/tini", "--"]

FROM runtime AS coordinator
COPY --from=build /opt/sab/bin/sab-coordinator /opt/sab/bin/sabctl /usr/local/bin/
EXPOSE 7070 9464
HEALTHCHECK --interval=10s --timeout=3s CMD curl -fsS http://127.0.0.1:9464/readyz || exit 1
CMD ["sab-coordinator", "--state-dir", "/var/lib/sab/state", "--checkpoint-dir", "/var/lib/sab/checkpoints", \
     "--listen", "0.0.0.0:7070", "--metrics-listen", "0.0.0.0:9464"]

FROM runtime AS worker
COPY --from=build /opt/runtime/ /opt/sab-cache/
COPY --from=build /opt/sab/bin/sab-worker /opt/sab/bin/sab-trainer /usr/local/bin/
EXPOSE 9465
HEALTHCHECK --interval=10s --timeout=3s CMD curl -fsS http://127.0.0.1:9465/readyz || exit 1
CMD ["sab-worker", "--coordinator", "coordinator:7070", "--state-dir", "/var/lib/sab/state", "--slots", "1", \
     "--metrics-listen", "0.0.0.0:9465"]
