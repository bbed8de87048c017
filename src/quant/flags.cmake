# The inner loops of the searching encoders, once per instruction set; the best one is chosen at start. They only pay when
# everything is inlined: also in debug builds. Vectors never cross into other files, so how they would be passed is moot.
set(ds4_search -O3)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  list(APPEND ds4_search -Wno-psabi)
endif()
set_source_files_properties(src/quant/block_search_baseline.cpp PROPERTIES COMPILE_OPTIONS "${ds4_search}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set_source_files_properties(src/quant/block_search_avx2.cpp PROPERTIES COMPILE_OPTIONS "${ds4_search};-mavx2")
  set_source_files_properties(src/quant/block_search_avx512.cpp PROPERTIES
    COMPILE_OPTIONS "${ds4_search};-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mprefer-vector-width=512")
endif()
