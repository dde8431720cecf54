# LibTorch from the PyPI wheel, as imported targets:
#   torch::torch  LibTorch itself (ATen, autograd, c10d), without its CUDA part: a CPU process starts 0.3 s sooner (1.4 s on a cold cache)
#   torch::cuda   the same with the CUDA part, where the wheel has one: for programs that always want a GPU. Others call
#                 LoadCudaLibraries() of model/collective once they know that they need it
#   torch::c10d   torch::torch plus what the files of model/collective need to see ProcessGroupGloo and ProcessGroupNCCL
#
# `find_package(Torch)` is not used: it demands a CUDA toolkit, and the wheel ships protobuf 3.13 headers that would shadow
# the system's. So its headers are seen through an overlay folder of links to everything but `google/`.
set(SAB_TORCH_DIR "" CACHE PATH "The wheel's torch folder (site-packages/torch); empty: found in SAB_WHEELS_DIR or by python3")
set(sab_torch_dir "${SAB_TORCH_DIR}")
if(NOT sab_torch_dir AND SAB_WHEELS_DIR)
  file(GLOB sab_torch_dir "${SAB_WHEELS_DIR}/lib/python3*/site-packages/torch")
endif()
if(NOT sab_torch_dir)
  execute_process(COMMAND python3 -c "import torch,os;print(os.path.dirname(torch.__file__))"
                  OUTPUT_VARIABLE sab_torch_dir OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT EXISTS "${sab_torch_dir}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch was not found (looked at '${sab_torch_dir}'). Run ./dev setup, or pass -DSAB_TORCH_DIR=.../site-packages/torch")
endif()
get_filename_component(sab_site_packages "${sab_torch_dir}" DIRECTORY)
set(SAB_SITE_PACKAGES "${sab_site_packages}")  # beside torch lie NVIDIA's libraries and compiler
message(STATUS "LibTorch: ${sab_torch_dir}")

set(sab_torch_overlay ${CMAKE_BINARY_DIR}/torch-headers)
file(MAKE_DIRECTORY ${sab_torch_overlay})
file(GLOB sab_torch_headers RELATIVE "${sab_torch_dir}/include" "${sab_torch_dir}/include/*")
list(REMOVE_ITEM sab_torch_headers google)
foreach(entry ${sab_torch_headers})
  file(CREATE_LINK "${sab_torch_dir}/include/${entry}" "${sab_torch_overlay}/${entry}" SYMBOLIC)
endforeach()

add_library(torch::torch INTERFACE IMPORTED)
target_include_directories(torch::torch SYSTEM INTERFACE
  ${sab_torch_overlay} ${sab_torch_overlay}/torch/csrc/api/include)
target_compile_definitions(torch::torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
target_link_directories(torch::torch INTERFACE ${sab_torch_dir}/lib)
# Not libtorch.so: it is empty but for its dependence on the CUDA part.
set(sab_torch_libs ${sab_torch_dir}/lib/libtorch_cpu.so ${sab_torch_dir}/lib/libc10.so)
add_library(torch::cuda INTERFACE IMPORTED)
target_link_libraries(torch::cuda INTERFACE torch::torch)
if(EXISTS ${sab_torch_dir}/lib/libtorch_cuda.so)
  set(SAB_TORCH_HAS_CUDA ON)
  # --no-as-needed: libtorch_cuda registers its kernels when it is loaded; nothing refers to it by symbol.
  target_link_libraries(torch::cuda INTERFACE -Wl,--push-state,--no-as-needed ${sab_torch_dir}/lib/libtorch_cuda.so
                        ${sab_torch_dir}/lib/libc10_cuda.so -Wl,--pop-state)
else()
  set(SAB_TORCH_HAS_CUDA OFF)
endif()
file(GLOB sab_nvidia_libs LIST_DIRECTORIES true "${sab_site_packages}/nvidia/*/lib")
set(sab_torch_link_paths "")
foreach(dir ${sab_nvidia_libs})
  list(APPEND sab_torch_link_paths -Wl,-rpath-link,${dir})
endforeach()
target_link_libraries(torch::torch INTERFACE ${sab_torch_libs} ${sab_torch_link_paths})

add_library(torch::c10d INTERFACE IMPORTED)
target_link_libraries(torch::c10d INTERFACE torch::torch)
find_path(SAB_GLOO_INCLUDE gloo/context.h)
if(SAB_GLOO_INCLUDE)
  # The wheel carries gloo's code without its headers; Debian's headers fit it. Do not link Debian's libgloo.
  target_compile_definitions(torch::c10d INTERFACE USE_C10D_GLOO)
endif()
set(SAB_TORCH_HAS_NCCL OFF)
if(SAB_TORCH_HAS_CUDA AND EXISTS ${sab_site_packages}/nvidia/nccl/include/nccl.h)
  set(SAB_TORCH_HAS_NCCL ON)
  target_compile_definitions(torch::c10d INTERFACE USE_C10D_NCCL)
  target_include_directories(torch::c10d SYSTEM INTERFACE
    ${sab_site_packages}/nvidia/nccl/include ${sab_site_packages}/nvidia/cu13/include)
endif()
