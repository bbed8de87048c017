find_package(rapidcheck REQUIRED)
target_link_libraries(chat_test PRIVATE rapidcheck)
