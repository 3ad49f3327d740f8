// Where arenas are kept between calls. No thread owns one: it would have to free it when it ends, by code of a library
// that may have been unloaded.
#include "cpu/scratch.h"

#include <atomic>

namespace bnfast::cpu {
namespace {

// A thread borrows from the place that it was given, and returns to it: it gets its own memory again, and rarely meets
// another thread there.
struct alignas(64) Place {
    std::atomic<Arena*> arena{nullptr};
};
constexpr unsigned kPlaces = 64;
Place places[kPlaces];

Place& own_place() {
    static std::atomic<unsigned> next{0};
    static thread_local Place* place = nullptr;
    if (place == nullptr) place = &places[next.fetch_add(1, std::memory_order_relaxed) % kPlaces];
    return *place;
}

// When the library is unloaded, or the program ends: what a thread still uses then is not in its place.
[[gnu::destructor]] void free_arenas() {
    for (Place& place : places) delete place.arena.exchange(nullptr);
}

}  // namespace

Arena* borrow_arena() {
    Arena* const kept = own_place().arena.exchange(nullptr, std::memory_order_acquire);
    return kept != nullptr ? kept : new Arena;
}

void return_arena(Arena* arena) {
    arena->release_large();
    delete own_place().arena.exchange(arena, std::memory_order_acq_rel);
}

}  // namespace bnfast::cpu
