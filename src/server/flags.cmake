# Glue around JSON: what it costs is compile time, not run time.
target_compile_options(ds4_server PRIVATE -O1)
