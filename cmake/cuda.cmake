# Device code, when asked for: nvcc, the runtime linked statically so that a binary needs only the driver, machine code
# for A100 (80), H100 (90a) and RTX 50 / DGX Spark class cards (120), and PTX that newer drivers compile for any other.
# ds4_library() adds src/<part>/*/*.cu.

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(DS4_NVCC nvcc PATHS /usr/local/cuda/bin)
  if(NOT DS4_NVCC)
    message(FATAL_ERROR "DS4_CUDA=ON: no nvcc in PATH or /usr/local/cuda/bin; install the CUDA toolkit (12.8 or newer) "
                        "or set CUDACXX")
  endif()
  set(CMAKE_CUDA_COMPILER ${DS4_NVCC})
endif()
set(DS4_CUDA_ARCHITECTURES 80-real 90a-real 120-real 80-virtual CACHE STRING "As CMAKE_CUDA_ARCHITECTURES")
set(CMAKE_CUDA_ARCHITECTURES ${DS4_CUDA_ARCHITECTURES})
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc 12 has C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
if(DS4_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${DS4_CCACHE})
endif()
