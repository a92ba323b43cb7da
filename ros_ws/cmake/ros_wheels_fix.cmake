# For building against ROS 2 from PyPI wheels only (-DCMAKE_PROJECT_INCLUDE=<this file>).
#
# The exported targets in those wheels carry include folders of the machine that built them, and
# CMake refuses a target with an include folder that does not exist. This drops such folders once
# the project has loaded its packages; a sourced ROS 2 installation does not need it.

function(jepa_arm_drop_missing_include_folders)
  get_property(targets DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders "${target}" INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(kept "")
    foreach(folder IN LISTS folders)
      if(folder MATCHES "^\\$<" OR EXISTS "${folder}")
        list(APPEND kept "${folder}")
      endif()
    endforeach()
    set_target_properties("${target}" PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}"
  CALL jepa_arm_drop_missing_include_folders)
