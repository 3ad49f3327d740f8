// Shows that each function of numerics/ gives the same bits by vectors, on every SIMD target that this machine has, as
// by single numbers: for random bits, ordinary numbers and special ones.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "bnfast_targets.h"
#include "cpu/target.h"
#include "forms.h"
#include "numerics/mask.h"

namespace bnfast {

namespace numerics {
forms::Table table_of_forms();
}
#define BNFAST_DECLARE(target)     \
    namespace target {             \
    forms::Table table_of_forms(); \
    }
BNFAST_FOR_EACH_TARGET(BNFAST_DECLARE)

namespace {

int failures = 0;

void expect(bool holds, const std::string& what) {
    if (holds) return;
    ++failures;
    std::fprintf(stderr, "FAILED %s\n", what.c_str());
}

// --- formulas ---------------------------------------------------------------------------------------------------

template <class T>
std::vector<T> special_numbers() {
    using Limits = std::numeric_limits<T>;
    std::vector<T> numbers;
    for (const T x : {T(0),
                      Limits::denorm_min(),
                      Limits::min() / 3,
                      Limits::min(),
                      Limits::epsilon(),
                      T(0.5),
                      T(1),
                      T(13.25),
                      T(20),
                      T(37.66),
                      T(40),
                      T(87.5),
                      T(88),
                      T(89),
                      T(104),
                      T(127),
                      T(128),
                      T(708.5),
                      T(709),
                      T(710),
                      T(745),
                      T(1023),
                      T(1024),
                      T(1e30),
                      Limits::max(),
                      Limits::infinity()}) {
        for (const T near : {std::nextafter(x, T(0)), x, std::nextafter(x, Limits::infinity())}) {
            numbers.push_back(near);
            numbers.push_back(-near);
        }
    }
    numbers.push_back(Limits::quiet_NaN());
    numbers.push_back(-Limits::quiet_NaN());
    return numbers;
}

// Any bits, numbers of all magnitudes around 1, and special numbers, so that each of these meets each other.
template <class T, class Bits>
std::vector<T> numbers(std::int64_t n, unsigned seed) {
    const std::vector<T> special = special_numbers<T>();
    std::mt19937_64 random(seed);
    std::vector<T> result(static_cast<std::size_t>(n));
    for (T& x : result) {
        const std::uint64_t word = random(), choice = random() % 4;
        const Bits bits = static_cast<Bits>(word);
        if (choice == 0) {
            std::memcpy(&x, &bits, sizeof x);
        } else if (choice == 1) {
            x = special[word % special.size()];
        } else {
            const double sign = word % 2 == 0 ? 1 : -1;
            x = static_cast<T>(sign * std::exp2(static_cast<double>(random() >> 11) * 0x1p-53 * 20 - 12));
        }
    }
    return result;
}

// NaN is the same whatever its payload: which operand's it has is the compiler's choice.
template <class T>
bool same(T a, T b) {
    return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

template <class T, class Bits>
void compare(const std::string& target, const forms::Form<T>* vectors, const forms::Form<T>* scalars, int count) {
    constexpr std::int64_t kN = 1 << 16;
    std::vector<std::vector<T>> x, by_vectors(forms::kMost, std::vector<T>(kN)), by_scalars = by_vectors;
    const T* arguments[forms::kMost];
    T *vector_results[forms::kMost], *scalar_results[forms::kMost];
    for (unsigned k = 0; k < forms::kMost; ++k) {
        x.push_back(numbers<T, Bits>(kN, k));
        arguments[k] = x[k].data();
        vector_results[k] = by_vectors[k].data();
        scalar_results[k] = by_scalars[k].data();
    }
    for (int f = 0; f < count; ++f) {
        vectors[f].run(arguments, vector_results, kN);
        scalars[f].run(arguments, scalar_results, kN);
        for (int r = 0; r < scalars[f].results; ++r) {
            std::int64_t i = 0;
            while (i < kN && same(vector_results[r][i], scalar_results[r][i])) ++i;
            if (i == kN) continue;
            std::string what = target + ": " + scalars[f].name + ", result " + std::to_string(r) + " of";
            char text[64];
            for (int a = 0; a < scalars[f].arguments; ++a) {
                std::snprintf(text, sizeof text, " %a", static_cast<double>(arguments[a][i]));
                what += text;
            }
            std::snprintf(text, sizeof text, ": %a, not %a", static_cast<double>(vector_results[r][i]),
                          static_cast<double>(scalar_results[r][i]));
            expect(false, what + text);
        }
    }
}

void compare(const std::string& target, const forms::Table& vectors) {
    const forms::Table scalars = numerics::table_of_forms();
    compare<float, std::uint32_t>(target, vectors.of_float, scalars.of_float, scalars.num_of_float);
    compare<double, std::uint64_t>(target, vectors.of_double, scalars.of_double, scalars.num_of_double);
}

// --- dropout ----------------------------------------------------------------------------------------------------

// Mask bits made in batches against the mapping of elements to numbers; with these K, ties are frequent or decide all.
void compare_masks(const cpu::KernelTable& target) {
    constexpr std::int64_t kGroups = 64;
    for (const std::uint64_t keep : {std::uint64_t{1}, std::uint64_t{0xffffffff}, std::uint64_t{1} << 32,
                                     std::uint64_t{0x800080000000}, std::uint64_t{0xaaaaaaaaaaab}, kKeepAll - 1}) {
        for (const std::uint64_t first_group : {std::uint64_t{0}, std::uint64_t{13}, (std::uint64_t{1} << 28) - 3}) {
            const DropoutMask mask{0x123456789abcdef0 + keep, ~keep, keep};
            std::vector<std::uint8_t> bytes(kGroups * numerics::kGroup / 8);
            target.mask_bits(mask, first_group, kGroups, bytes.data());
            bool all = true;
            for (std::uint64_t i = 0; i < 8 * bytes.size(); ++i) {
                const bool kept = ((bytes[i / 8] >> (i % 8)) & 1) != 0;
                all = all && kept == numerics::is_kept(mask, first_group * numerics::kGroup + i);
            }
            expect(all, std::string(target.name) + ": mask bits of K = " + std::to_string(keep) + " from group " +
                            std::to_string(first_group));
        }
    }
}

// A tie is one element in 65,536: enough of them, decided both ways.
void expect_ties() {
    const DropoutMask mask{1, 2, 0x800080000000};
    int kept = 0, dropped = 0;
    for (std::uint64_t i = 0; i < 1 << 20; ++i) {
        const std::uint32_t u = numerics::first_draw(numerics::philox(16 * (i / 128) + i % 16, 2, 1),
                                                     static_cast<std::uint32_t>(i / 16 % 8));
        if (u == numerics::high_bits(mask)) ++(numerics::is_kept(mask, i) ? kept : dropped);
    }
    expect(kept > 0 && dropped > 0, "ties that are kept and dropped");
}

int test() {
    expect_ties();
    for (const cpu::KernelTable& target : cpu::usable_targets()) {
        const std::string name = target.name;
#define BNFAST_COMPARE(of) \
    if (name == #of) compare(name, of::table_of_forms());
        BNFAST_FOR_EACH_TARGET(BNFAST_COMPARE)
        compare_masks(target);
        std::printf("%s: %s\n", target.name, failures == 0 ? "same bits" : "failed");
    }
    return failures == 0 ? 0 : 1;
}

}  // namespace

}  // namespace bnfast

int main() { return bnfast::test(); }
