# One instruction set per file: only these files may use it, and they are reached through a table chosen at start.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set_source_files_properties(src/backend/cpu/table_avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  set(ds4_avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(APPEND ds4_avx512 -Wno-maybe-uninitialized -Wno-uninitialized)  # the intrinsics of gcc 12 name undefined vectors on purpose
  endif()
  set_source_files_properties(src/backend/cpu/table_avx512.cpp PROPERTIES COMPILE_OPTIONS "${ds4_avx512}")
  set_source_files_properties(src/backend/cpu/table_amx.cpp PROPERTIES COMPILE_OPTIONS "${ds4_avx512};-mamx-tile;-mamx-int8")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set_source_files_properties(src/backend/cpu/table_neon_dot.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
endif()
# Kernels are templates that only pay when everything is inlined and unrolled: also in debug builds.
file(GLOB ds4_tables src/backend/cpu/table_*.cpp)
set_property(SOURCE ${ds4_tables} APPEND PROPERTY COMPILE_OPTIONS -O3)
