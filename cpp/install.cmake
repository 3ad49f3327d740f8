# What is installed: the library and its headers; in a wheel, inside the Python package.
include(GNUInstallDirs)
if(DEFINED SKBUILD)
  set(CMAKE_INSTALL_LIBDIR bnfast/lib)
  set(CMAKE_INSTALL_INCLUDEDIR bnfast/include)
  set(namelink NAMELINK_SKIP)  # a symbolic link for linkers that search by name
endif()

install(TARGETS bnfast LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ${namelink})
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
