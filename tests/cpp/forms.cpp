// The table of forms: compiled with the flags of each SIMD target, where values are vectors, and once without, where
// they are single numbers.
#include "forms.h"

#include "numerics/activations.h"
#include "numerics/affine.h"
#include "numerics/coefficients.h"
#include "numerics/moments.h"
#include "numerics/sums.h"
#if defined(BNFAST_TARGET)
#include "cpu/simd/storage.h"
#endif

namespace bnfast {
namespace BNFAST_NUMERICS {

#if defined(BNFAST_TARGET)
template <class T>
using Value = Vec<T>;
constexpr std::int64_t kStep = kLanes;
#else
template <class T>
using Value = T;
constexpr std::int64_t kStep = 1;
template <class T>
T load(const T* p) {
    return *p;
}
template <class T>
void store(T* p, T value) {
    *p = value;
}
#endif

template <class T>
struct Results {
    Value<T> value[forms::kMost];
};

// F::run takes an array of values and returns Results.
template <class T, class F>
void run(const T* const* arguments, T* const* results, std::int64_t n) {
    for (std::int64_t i = 0; i < n; i += kStep) {
        Value<T> values[forms::kMost];
        for (int a = 0; a < F::kArguments; ++a) values[a] = load(arguments[a] + i);
        const Results<T> result = F::run(values);
        for (int r = 0; r < F::kResults; ++r) store(results[r] + i, result.value[r]);
    }
}
template <class T, class F>
constexpr forms::Form<T> form(const char* name) {
    return {name, F::kArguments, F::kResults, &run<T, F>};
}

// Defines a form of the given numbers of arguments x[..] and results.
#define BNFAST_FORM(Name, num_arguments, num_results, ...)                       \
    template <class T>                                                           \
    struct Name {                                                                \
        static constexpr int kArguments = num_arguments, kResults = num_results; \
        static Results<T> run(const Value<T>* x) { __VA_ARGS__ }                 \
    };

BNFAST_FORM(Operations, 2, 7,
            return {{abs(x[0]), copysign(x[0], x[1]), min(x[0], x[1]), max(x[0], x[1]), truncate_low(x[0]),
                     round_even(x[0]), sqrt(x[0])}};)
BNFAST_FORM(Exponents, 1, 2, return {{pow2n(round_even(x[0])), exponent(x[0])}};)
BNFAST_FORM(Elementary, 1, 4, return {{exp(x[0]), expm1(x[0]), log1p(x[0]), tanh(x[0])}};)
BNFAST_FORM(Tail, 1, 3, const NormalTail<Value<T>> tail = normal_tail(x[0]);
            return {{tail.a, tail.density, tail.ratio}};)

BNFAST_FORM(Map, 6, 4, const Value<T> zero(0);
            const AffineMap<Value<T>> plain{x[1], x[2], x[3], x[4], x[5], false, zero};
            const AffineMap<Value<T>> scaled{x[1], x[2], x[3], x[4], x[5], true, x[5]};
            return {{plain.apply(plain.centre(x[0])), scaled.centre(x[0]), plain.undo(x[0]),
                     gradient_at_input(x[0], x[1], x[2], x[3], x[4])}};)

template <class Act, class T>
struct Forward {
    static constexpr int kArguments = 2, kResults = 2;
    static Results<T> run(const Value<T>* x) {
        const Act act(T(0.01));
        return {{act.forward(x[0]), backward_through(act, x[0], x[1])}};
    }
};
template <class Act, class T>
struct FromOutput {
    static constexpr int kArguments = 1, kResults = 2;
    static Results<T> run(const Value<T>* x) {
        const Act act(T(0.01));
        return {{act.inverse(x[0]), act.derivative_from_output(x[0])}};
    }
};

BNFAST_FORM(About, 3, 3, const PartMoments<Value<T>> m = moments_about(x[0], Value<T>(37), x[1], x[2]);
            return {{m.mean, m.mean_low, m.m2}};)
BNFAST_FORM(Trusted, 2, 2,
            return {{select(trusted(x[0], x[1]), x[0], x[1]), select(trusted_in_short_runs(x[0], x[1]), x[0], x[1])}};)
BNFAST_FORM(SumsStand, 2, 1, return {{select(sums_stand(x[0], x[1]), x[0], x[1])}};)
template <int kCountA, int kCountB>
struct Merged {
    static constexpr int kArguments = 6, kResults = 3;
    static Results<double> run(const Value<double>* x) {
        const PartMoments<Value<double>> a{x[0], x[1], x[2]}, b{x[3], x[4], x[5]};
        const PartMoments<Value<double>> m = merged(a, b, kCountA, kCountB);
        return {{m.mean, m.mean_low, m.m2}};
    }
};
template <EpsPlacement kPlacement>
struct Invstd {
    static constexpr int kArguments = 2, kResults = 2;
    static Results<double> run(const Value<double>* x) {
        const Value<double> var = variance(x[0], abs(x[1]));
        return {{invstd_of(var, 1e-5, kPlacement), invstd_of(var, 0.0, kPlacement)}};
    }
};
template <class T>
struct Affine {
    static constexpr int kArguments = 5, kResults = 7;
    static Results<double> run(const Value<double>* x) {
        const auto a = affine_coefficients<T>(x[0], x[1], abs(x[2]), x[3], x[4]);
        return {{widen(a.prescale), widen(a.mean_high), widen(a.mean_low), widen(a.scale), widen(a.shift),
                 a.exact_scale, widen(inverse_scale<T>(a.exact_scale))}};
    }
};
BNFAST_FORM(SumsKeepDigits, 4, 2, const auto unscaled = sums_keep_digits(x[0], x[1], x[2], Value<T>(1));
            const auto scaled = sums_keep_digits(x[0], x[1], x[2], x[3]);
            return {{select(unscaled, x[0], x[1]), select(scaled, x[0], x[1])}};)
BNFAST_FORM(AboutMean, 3, 1, return {{sum_about_mean(x[0], x[1], x[2])}};)
BNFAST_FORM(SquaredInvstd, 4, 4,
            return {{squared_invstd_of(x[0], Value<T>(1)), squared_invstd_of(x[0], x[1]),
                     squared_invstd_beside_eps(x[0], Value<T>(1), x[2], x[3], 1e-5),
                     squared_invstd_beside_eps(x[0], x[1], x[2], x[3], 0.0)}};)
template <class T>
struct Dx {
    static constexpr int kArguments = 6, kResults = 3;
    static Results<double> run(const Value<double>* x) {
        const auto dx = dx_coefficients<T>(x[0], x[1], x[2], x[3], x[4], x[5]);
        return {{widen(dx.mean_dz), widen(dx.projection), widen(dx.dx_scale)}};
    }
};

#define BNFAST_FORMS_OF_BOTH(T)                                                                                        \
    form<T, Operations<T>>("operations"), form<T, Exponents<T>>("exponents"),                                          \
        form<T, Elementary<T>>("exp, expm1, log1p, tanh"), form<T, Tail<T>>("normal_tail"),                            \
        form<T, Map<T>>("AffineMap, gradient_at_input"), form<T, Forward<Identity<T>, T>>("Identity"),                 \
        form<T, FromOutput<Identity<T>, T>>("Identity from output"), form<T, Forward<Relu<T>, T>>("Relu"),             \
        form<T, Forward<LeakyRelu<T>, T>>("LeakyRelu"), form<T, FromOutput<LeakyRelu<T>, T>>("LeakyRelu from output"), \
        form<T, Forward<Sigmoid<T>, T>>("Sigmoid"), form<T, Forward<Tanh<T>, T>>("Tanh"),                              \
        form<T, Forward<Silu<T>, T>>("Silu"), form<T, Forward<Gelu<T>, T>>("Gelu"),                                    \
        form<T, Forward<Elu<T>, T>>("Elu"), form<T, FromOutput<Elu<T>, T>>("Elu from output")

forms::Table table_of_forms() {
    static constexpr forms::Form<float> kFloat[] = {BNFAST_FORMS_OF_BOTH(float)};
    static constexpr forms::Form<double> kDouble[] = {BNFAST_FORMS_OF_BOTH(double),
                                                      form<double, About<double>>("moments_about"),
                                                      form<double, Trusted<double>>("trusted"),
                                                      form<double, SumsStand<double>>("sums_stand"),
                                                      form<double, Merged<3, 5>>("merged"),
                                                      form<double, Merged<3, 0>>("merged with nothing"),
                                                      form<double, Merged<0, 3>>("nothing merged"),
                                                      form<double, Invstd<EpsPlacement::kVar>>("invstd of var"),
                                                      form<double, Invstd<EpsPlacement::kStd>>("invstd of std"),
                                                      form<double, Affine<float>>("affine_coefficients of float"),
                                                      form<double, Affine<double>>("affine_coefficients of double"),
                                                      form<double, SumsKeepDigits<double>>("sums_keep_digits"),
                                                      form<double, AboutMean<double>>("sum_about_mean"),
                                                      form<double, SquaredInvstd<double>>("squared_invstd"),
                                                      form<double, Dx<float>>("dx_coefficients of float"),
                                                      form<double, Dx<double>>("dx_coefficients of double")};
    return {kFloat, sizeof kFloat / sizeof kFloat[0], kDouble, sizeof kDouble / sizeof kDouble[0]};
}

}  // namespace BNFAST_NUMERICS
}  // namespace bnfast
