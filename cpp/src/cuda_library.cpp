// The library of the CUDA backend, loaded when it is first asked for.
#include "cuda_library.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace bnfast {
namespace {

// What the first call found. No std::string: threads may still ask while the program ends and destroys such objects.
struct Found {
    const cuda::Library* library = nullptr;
    char why_not[1024] = "";
};

Found not_found(const std::string& why) {
    Found found;
    std::snprintf(found.why_not, sizeof found.why_not, "%s", why.c_str());
    return found;
}

// The file beside the one that holds this function, which is libbnfast; or the one that the environment names.
std::string path_of_library() {
    if (const char* const path = std::getenv("BNFAST_CUDA_LIBRARY")) return path;
    static const char here = 0;
    Dl_info self;
    const bool known = dladdr(&here, &self) != 0 && self.dli_fname != nullptr;
    const std::string file = known ? self.dli_fname : "";
    return file.substr(0, file.rfind('/') + 1) + "libbnfast_cuda.so";
}

bool exists(const std::string& path) {
    std::FILE* const file = std::fopen(path.c_str(), "rb");
    return file != nullptr && std::fclose(file) == 0;
}

Found find() {
    const std::string path = path_of_library();
    if (!exists(path)) return not_found("bnfast was installed without CUDA, as there is no " + path);
    // It is never closed: CUDA cannot be unloaded. That does not keep libbnfast itself, which it is not linked with.
    void* const file = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (file == nullptr) return not_found("the library for CUDA cannot be loaded: " + std::string(dlerror()));
    void* const symbol = dlsym(file, "bnfast_cuda_library");
    if (symbol == nullptr) return not_found(path + " is not the library of bnfast for CUDA");
    const cuda::Library* const library = reinterpret_cast<decltype(&bnfast_cuda_library)>(symbol)();
    if (std::strcmp(library->version, BNFAST_VERSION) != 0) {
        return not_found(path + " is of bnfast " + library->version + ", expected " BNFAST_VERSION);
    }
    if (const char* const why = library->why_unavailable()) return not_found(why);
    Found found;
    found.library = library;
    return found;
}

const Found& found() {
    static const Found result = find();
    return result;
}

}  // namespace

const cuda::Library* cuda_library() { return found().library; }
const char* why_no_cuda_library() { return found().why_not; }

}  // namespace bnfast
