// Merging Moments and GradientSums: the whole from its parts, and parts that do not fit.
#include <bnfast/error.h>
#include <bnfast/moments.h>

#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>

namespace {

using namespace bnfast;

int failures = 0;

void require(bool right, const char* what) {
    if (right) return;
    ++failures;
    std::printf("FAILED: %s\n", what);
}

// A merge that must throw ValueError with this message, and leave its left side as it was.
template <class Statistics>
void refuse(Statistics into, const Statistics& other, const std::string& message) {
    const auto counts = into.count;
    std::string got = "no error";
    try {
        merge(into, other);
    } catch (const ValueError& error) {
        got = error.what();
    }
    require(got == message, (message + ", but got: " + got).c_str());
    require(into.count == counts, "nothing is written");
}

}  // namespace

int main() {
    // of the numbers 1, 2 in one channel, and of none in the other
    const Moments moments{{2, 0}, {1.5, 9.0}, {0.0, 9.0}, {0.5, 9.0}};
    Moments merged = moments;
    merge(merged, {{3, 1}, {4.0, 7.0}, {0.0, 0.0}, {2.0, 0.0}});  // 3, 4, 5; and 7
    require(merged.count == decltype(merged.count){5, 1}, "counts add up");
    require(merged.mean == decltype(merged.mean){3.0, 7.0}, "the mean of all");
    require(merged.m2 == decltype(merged.m2){10.0, 0.0}, "the sum of squared deviations of all");
    require(merged.mean_low == decltype(merged.mean_low){0.0, 0.0}, "nothing is lost from the means");

    GradientSums sums{{1, 0}, {2.0, 9.0}, {3.0, 9.0}};
    merge(sums, {{1, 2}, {4.0, 5.0}, {5.0, 6.0}});
    require(sums.count == decltype(sums.count){2, 2}, "counts of gradients add up");
    require(sums.sum_dy == decltype(sums.sum_dy){6.0, 5.0}, "sums of dy add up");
    require(sums.sum_dy_xmu == decltype(sums.sum_dy_xmu){8.0, 6.0}, "sums of dy (x - mean) add up");

    Moments longer = moments, shorter = moments, many = moments;
    longer.count.push_back(1);
    shorter.m2.pop_back();
    many.count[0] = std::numeric_limits<std::int64_t>::max() - 1;
    refuse(moments, longer, "Moments.merge: other has 3 channels, expected 2");
    refuse(moments, shorter, "Moments.merge: other has 1 channels, expected 2");
    refuse(shorter, moments, "Moments.merge: into has 1 channels, expected 2");
    refuse(many, moments, "Moments.merge: a count is beyond int64, expected less than 2**63");
    refuse(sums, GradientSums{}, "GradientSums.merge: other has 0 channels, expected 2");
    if (failures == 0) std::puts("parts merge, and those that do not fit are refused");
    return failures == 0 ? 0 : 1;
}
