# Writes commit.h with DS4_COMMIT, the commit that is built; run at every build, rewritten only when it changes.
# cmake -DSOURCE=dir -DOUTPUT=commit.h [-DCOMMIT=text] -P commit.cmake
if(NOT COMMIT)
  execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=12 --exclude=*
                  OUTPUT_VARIABLE COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    set(COMMIT unknown)
  endif()
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "#pragma once\n#define DS4_COMMIT \"${COMMIT}\"\n")
