# Run at every build: writes mote_commit.h if the commit has changed, so that `mote --version` never tells an old one.
cmake_minimum_required(VERSION 3.22)
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD OUTPUT_VARIABLE commit RESULT_VARIABLE failed
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(failed)
  set(commit "unknown (built outside git)")
else()
  execute_process(COMMAND git -C ${SOURCE} status --porcelain --untracked-files=no OUTPUT_VARIABLE changed ERROR_QUIET)
  if(changed)
    set(commit "${commit} with changes")
  endif()
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#define MOTE_COMMIT \"${commit}\"\n" @ONLY)
