// Small launches: numbers of channels, sums of rows of them, copies between strides, masks.
#pragma once

#include <vector>

#include "cuda/kernels/copy.h"
#include "cuda/kernels/dropout.h"
#include "cuda/kernels/numbers.h"
#include "cuda/runtime.h"

namespace bnfast::cuda {

// A tensor of any strides and its dense copy.
struct StridedCopy {
    void *strided = nullptr, *dense = nullptr;
    IndexMapOf<kMaxDims + 1> place;  // of dense element i among the strided ones, in bytes
    std::int64_t elements = 0;
    Direction direction = Direction::kToDense;
};

// The numbers of a view of float32 or float64 in the order of its indices, as a row that goes to `out`; `copies` keeps
// what had to be copied until the row has been launched.
NumberRow number_row(const TensorView& view, double* out, std::vector<DeviceMemory<char>>& copies, Stream stream);
void fill_numbers(const FillNumbersKernel& rows, Stream stream);
void launch_rounded(const StoreNumbersKernel& numbers, Stream stream);
// Float64 numbers, divided by others unless these are null, rounded to the type of `out`, in the order of its indices.
void store_rounded(const double* values, const double* divisors, const TensorView& out, Stream stream);
void add_rows(const AddRowsKernel& rows, Stream stream);
void copy_strided(const StridedCopy& copy, std::int64_t element_bytes, Stream stream);
void expand_mask(const MaskKernel& mask, Stream stream);

}  // namespace bnfast::cuda
