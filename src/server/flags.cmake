# Glue around JSON: what it costs is compile time, not run time.
target_compile_options(ds4_server PRIVATE -O1)

# The web page is part of the program.
file(GLOB web_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/server/web/*)
set(web_files ${CMAKE_BINARY_DIR}/generated/web_files.cpp)
add_custom_command(OUTPUT ${web_files}
  COMMAND ${CMAKE_COMMAND} -DFOLDER=${CMAKE_SOURCE_DIR}/src/server/web -DOUTPUT=${web_files}
          -P ${CMAKE_SOURCE_DIR}/cmake/web_files.cmake
  DEPENDS ${web_sources} ${CMAKE_SOURCE_DIR}/cmake/web_files.cmake COMMENT "The web page as a source")
target_sources(ds4_server PRIVATE ${web_files})
