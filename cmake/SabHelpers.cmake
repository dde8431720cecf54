# One CMake target per library, each with explicit dependencies.
#
#   sab_library(NAME model_train SRCS a.cc HDRS a.h DEPS sab::model_config)      -> sab::model_train
#   sab_binary(NAME sab-worker SRCS main.cc DEPS ...)                            -> build/bin/sab-worker, installed
#   sab_test(NAME lease_test SRCS lease_test.cc DEPS ... [LABELS slow] [TIMEOUT 60] [RUN_SERIAL])
#
# Tests without LABELS are the fast suite (label `fast`).
include(GNUInstallDirs)

add_library(sab_options INTERFACE)
target_compile_options(sab_options INTERFACE -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers)
target_include_directories(sab_options INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/gen)
target_compile_definitions(sab_options INTERFACE SAB_VERSION="${PROJECT_VERSION}")
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  target_compile_options(sab_options INTERFACE -Wthread-safety)
endif()
find_program(SAB_MOLD mold)
if(SAB_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

function(sab_library)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;HDRS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(sab_${ARG_NAME} STATIC ${ARG_SRCS} ${ARG_HDRS})
    target_link_libraries(sab_${ARG_NAME} PUBLIC sab_options ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  else()
    add_library(sab_${ARG_NAME} INTERFACE)
    target_link_libraries(sab_${ARG_NAME} INTERFACE sab_options ${ARG_DEPS})
  endif()
  add_library(sab::${ARG_NAME} ALIAS sab_${ARG_NAME})
endfunction()

function(sab_binary)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  target_link_libraries(${ARG_NAME} PRIVATE sab_options ${ARG_DEPS})
  install(TARGETS ${ARG_NAME} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

function(sab_test)
  if(NOT SAB_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "RUN_SERIAL" "NAME;TIMEOUT" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  set_target_properties(${ARG_NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${ARG_NAME} PRIVATE sab_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME})
  if(NOT ARG_LABELS)
    set(ARG_LABELS fast)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)  # LibTorch with CUDA may come from a cold, slow disk
  endif()
  # One OpenMP thread: tests run side by side, and threads that outnumber the cores spin on each other.
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77
                       ENVIRONMENT OMP_NUM_THREADS=1)
  if(ARG_RUN_SERIAL)
    set_tests_properties(${ARG_NAME} PROPERTIES RUN_SERIAL TRUE)
  endif()
endfunction()
