// BNFAST_API marks the names that the library shows to programs; all others are hidden in it.
#pragma once

#define BNFAST_API __attribute__((visibility("default")))
