# tutee_compress(TARGET TEACHER teacher.onnx STUDENT student.onnx [RECIPE recipe.toml] [OPTIONS …])
#
# Adds a target that makes a student from a teacher, again whenever the teacher, its external data, the recipe or its data
# changed. STUDENT is relative to the binary folder, the others to the source folder. The property STUDENT of the target is
# where the student is. TUTEE_EXECUTABLE names the command where it is not found.

find_program(TUTEE_EXECUTABLE tutee DOC "The tutee command")

function(tutee_compress target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TEACHER;STUDENT;RECIPE" "OPTIONS")
  if(NOT TUTEE_EXECUTABLE)
    message(FATAL_ERROR "tutee_compress: there is no tutee command; set TUTEE_EXECUTABLE")
  endif()
  if(NOT arg_TEACHER OR NOT arg_STUDENT)
    message(FATAL_ERROR "tutee_compress(${target}): give TEACHER and STUDENT")
  endif()
  get_filename_component(teacher "${arg_TEACHER}" ABSOLUTE)
  get_filename_component(student "${arg_STUDENT}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_BINARY_DIR}")
  set(inputs "${teacher}")
  set(options ${arg_OPTIONS})
  if(arg_RECIPE)
    get_filename_component(recipe "${arg_RECIPE}" ABSOLUTE)
    list(APPEND inputs "${recipe}")
    list(APPEND options --recipe "${recipe}")
  endif()
  add_custom_command(
    OUTPUT "${student}"
    COMMAND "${TUTEE_EXECUTABLE}" compress "${teacher}" -o "${student}" --depfile "${student}.d" --quiet ${options}
    DEPENDS ${inputs}
    DEPFILE "${student}.d"
    COMMENT "Compressing ${arg_TEACHER}"
    VERBATIM)
  add_custom_target(${target} ALL DEPENDS "${student}")
  set_target_properties(${target} PROPERTIES STUDENT "${student}")
endfunction()
