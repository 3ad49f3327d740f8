# The SIMD targets, best first: name | flags | vector bytes | how loops over elements are optimised in a release. Adding a
# target is adding a row (and its test of the CPU in target.cpp). -O3 makes more copies of loops: 5 % faster with wide
# registers, a third more code. The baseline serves processors made before 2013, and is built to be small.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64|i[3-6]86)$")
  set(BNFAST_TARGETS
      "x86_64_v4|-march=x86-64-v4 -mprefer-vector-width=512|64|-O3"
      "x86_64_v3|-march=x86-64-v3|32|-O2"
      "x86_64|-march=x86-64|16|-Os")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$")
  set(BNFAST_TARGETS "neon|-march=armv8-a|16|-O2")
else()
  set(BNFAST_TARGETS "generic||16|-O2")
endif()
