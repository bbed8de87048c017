# rapidcheck: properties. PCRE2: the oracle of the split.
find_path(RAPIDCHECK_INCLUDE rapidcheck.h REQUIRED)
find_library(RAPIDCHECK_LIBRARY rapidcheck REQUIRED)
find_path(PCRE2_INCLUDE pcre2.h REQUIRED)
find_library(PCRE2_LIBRARY pcre2-8 REQUIRED)
target_include_directories(tokenizer_test SYSTEM PRIVATE ${RAPIDCHECK_INCLUDE} ${PCRE2_INCLUDE})
target_link_libraries(tokenizer_test PRIVATE ${RAPIDCHECK_LIBRARY} ${PCRE2_LIBRARY})
