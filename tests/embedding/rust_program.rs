// Batch norm and ReLU of a small matrix in Rust, through the C face: prints the bits of y.
use std::ffi::{c_char, c_void, CStr};
use std::mem::size_of;
use std::ptr::{null, null_mut};

#[repr(C)]
struct Tensor {
    size: usize,
    data: *mut c_void,
    shape: *const i64,
    strides: *const i64,
    ndim: i32,
    dtype: i32,
    device: i32,
    device_index: i32,
}

#[repr(C)]
struct NormInputs {
    size: usize,
    x: *const Tensor,
    gamma: *const Tensor,
    beta: *const Tensor,
    residual: *const Tensor,
    where_: *const Tensor,
}

#[repr(C)]
#[derive(Default)]
struct NormOptions {
    size: usize,
    eps: f64,
    activation_slope: f64,
    dropout: f64,
    seed: u64,
    offset: u64,
    axis: i32,
    eps_placement: i32,
    activation: i32,
    reserved: i32,
}

extern "C" {
    fn bnfast_last_error() -> *const c_char;
    fn bnfast_norm_options_init(options: *mut NormOptions, size: usize) -> i32;
    fn bnfast_batch_norm_state_bytes(x: *const Tensor, axis: i32, bytes: *mut usize) -> i32;
    fn bnfast_batch_norm(
        inputs: *const NormInputs,
        options: *const NormOptions,
        y: *const Tensor,
        state: *mut c_void,
        state_bytes: usize,
    ) -> i32;
}

const RELU: i32 = 1;

fn check(status: i32) -> Result<(), String> {
    match status {
        0 => Ok(()),
        _ => Err(unsafe { CStr::from_ptr(bnfast_last_error()) }.to_string_lossy().into_owned()),
    }
}

fn tensor(values: &mut [f32], shape: &[i64]) -> Tensor {
    Tensor {
        size: size_of::<Tensor>(),
        data: values.as_mut_ptr().cast(),
        shape: shape.as_ptr(),
        strides: null(),
        ndim: shape.len() as i32,
        dtype: 0,
        device: 0,
        device_index: 0,
    }
}

fn main() -> Result<(), String> {
    let shape = [4, 3];
    let mut x: Vec<f32> = (0..12).map(|i| (i * i) as f32).collect();
    let mut y = vec![0.0; x.len()];
    let (in_, out) = (tensor(&mut x, &shape), tensor(&mut y, &shape));
    let inputs = NormInputs {
        size: size_of::<NormInputs>(),
        x: &in_,
        gamma: null(),
        beta: null(),
        residual: null(),
        where_: null(),
    };
    let mut options = NormOptions::default();
    let mut bytes = 0;
    unsafe {
        check(bnfast_norm_options_init(&mut options, size_of::<NormOptions>()))?;
        options.activation = RELU;
        check(bnfast_batch_norm_state_bytes(&in_, options.axis, &mut bytes))?;
        let mut state = vec![0u64; bytes / 8];
        check(bnfast_batch_norm(&inputs, &options, &out, state.as_mut_ptr().cast(), bytes))?;
        let refused = check(bnfast_batch_norm(&inputs, &options, &out, null_mut(), bytes));
        assert_eq!(refused, Err("batch_norm: state is NULL".into()));
    }
    let bits: Vec<String> = y.iter().map(|v| format!("{:08x}", v.to_bits())).collect();
    println!("{}", bits.join(" "));
    Ok(())
}
