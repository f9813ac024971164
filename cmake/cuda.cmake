# Whether the GPU kernels are built, by which toolkit, for which devices.
#   CUDA=auto   for the devices of this machine, where it has any and nvcc is there: elsewhere they would double the build
#   CUDA=on     for every architecture below; fails if nvcc is not there
#   CUDA=off    without
set(MOTE_CUDA_FOUND FALSE)
if(NOT CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "CUDA=${CUDA}: must be auto, on or off")
endif()
if(CUDA STREQUAL "off")
  set(CUDA_SUMMARY "off (asked for)")
  return()
endif()

# CMake's own search needs an architecture before it has seen the compiler.
if(CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${CUDA_ARCHITECTURES})
elseif(CUDA STREQUAL "on")
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real 90a-real 90-virtual)   # PTX of 90 runs on whatever comes later
else()
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE capabilities ERROR_QUIET RESULT_VARIABLE status)
  string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${capabilities}")
  list(REMOVE_DUPLICATES capabilities)
  if(status EQUAL 0 AND capabilities)
    foreach(capability ${capabilities})
      string(REPLACE "." "" number ${capability})
      string(REPLACE "90" "90a" number ${number})   # wgmma and TMA are in 90a only
      list(APPEND CMAKE_CUDA_ARCHITECTURES ${number}-real)
    endforeach()
  else()
    set(CUDA_SUMMARY "off (no NVIDIA device here; CUDA=on builds for other machines)")
    return()
  endif()
endif()

if(NOT CMAKE_CUDA_HOST_COMPILER)
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(CUDA STREQUAL "on")
    message(FATAL_ERROR "CUDA=on: nvcc was not found, or does not work with ${CMAKE_CXX_COMPILER}; put it on the PATH, "
      "set CUDACXX, or use CUDA=off")
  endif()
  set(CUDA_SUMMARY "off (no nvcc)")
  return()
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)   # the first with C++20
  if(CUDA STREQUAL "on")
    message(FATAL_ERROR "CUDA=on: the toolkit is ${CMAKE_CUDA_COMPILER_VERSION}, 12.0 or later is needed")
  endif()
  set(CUDA_SUMMARY "off (toolkit ${CMAKE_CUDA_COMPILER_VERSION}, needs 12.0)")
  return()
endif()
find_package(CUDAToolkit REQUIRED)
if(NOT TARGET CUDA::cublasLt)
  if(CUDA STREQUAL "on")
    message(FATAL_ERROR "CUDA=on: the toolkit in ${CUDAToolkit_LIBRARY_DIR} has no cuBLASLt")
  endif()
  set(CUDA_SUMMARY "off (a toolkit without cuBLASLt)")
  return()
endif()
set(MOTE_CUDA_FOUND TRUE)
set(CMAKE_INSTALL_RPATH_USE_LINK_PATH TRUE)   # an installed mote finds cuBLASLt where the build found it
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)   # CMake 3.25 does not know that this toolkit has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
set(CMAKE_CUDA_FLAGS_DEBUG "-O1 -g -DMOTE_DEBUG")
# "80,90a,90-virtual": as architectures.h reads it.
string(REPLACE "-real" "" MOTE_CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
string(REPLACE ";" "," MOTE_CUDA_ARCHITECTURES "${MOTE_CUDA_ARCHITECTURES}")
set(CUDA_SUMMARY "${CMAKE_CUDA_COMPILER_VERSION}, architectures ${MOTE_CUDA_ARCHITECTURES}")

# Gives the object library `target` the toolkit and the flags of the kernels.
function(mote_add_cuda target)
  target_compile_options(${target} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>"
    "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>" "$<$<COMPILE_LANGUAGE:CUDA>:-lineinfo>"
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-psabi>")
  # The same bits as on the CPU, whose files keep products and sums apart too (random_math.h): all but the products.
  foreach(name copy norm norm_backward optim pointwise random reduce resample score softmax)
    set_property(SOURCE ${CMAKE_SOURCE_DIR}/tensor/cuda/${name}.cu APPEND PROPERTY COMPILE_OPTIONS -fmad=false)
  endforeach()
  set_property(SOURCE ${CMAKE_SOURCE_DIR}/tensor/cuda/runtime.cpp APPEND PROPERTY COMPILE_DEFINITIONS
    "MOTE_CUDA_ARCHITECTURES=\"${MOTE_CUDA_ARCHITECTURES}\"")
  target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
endfunction()
