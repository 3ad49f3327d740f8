# What is installed: the library, its headers and its CMake package; in a wheel, inside the Python package.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
if(DEFINED SKBUILD AND PROJECT_IS_TOP_LEVEL)
  set(CMAKE_INSTALL_LIBDIR bnfast/lib)
  set(CMAKE_INSTALL_INCLUDEDIR bnfast/include)
  set(namelink NAMELINK_SKIP)  # a symbolic link for linkers that search by name
endif()
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/bnfast)

install(
  TARGETS bnfast
  EXPORT bnfast
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ${namelink}
  INCLUDES
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# The library needs nothing that its users would have to find: the list of targets is the whole package.
install(EXPORT bnfast NAMESPACE bnfast:: FILE bnfastConfig.cmake DESTINATION ${package})
write_basic_package_version_file(bnfastConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/bnfastConfigVersion.cmake DESTINATION ${package})
