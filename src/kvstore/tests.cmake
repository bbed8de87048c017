# Ten thousand flipped bits, and processes that share a directory for a minute.
add_test(NAME kvstore.deep COMMAND kvstore_test --gtest_brief=1 --gtest_filter=Store.NoFlippedBit*:Store.ManyOnOne*)
set_tests_properties(kvstore.deep PROPERTIES LABELS deep ENVIRONMENT DS4_DEEP=1)
# Power cuts of a real file system, where one may be mounted.
add_test(NAME kvstore.power_cut COMMAND kvstore_test --gtest_brief=1 --gtest_filter=PowerCut.*)
set_tests_properties(kvstore.power_cut PROPERTIES LABELS deep ENVIRONMENT DS4_DEEP=1)
