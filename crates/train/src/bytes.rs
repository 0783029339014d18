//! Tensors as bytes, a chunk at a time: nothing is held twice, whatever the device.

use tch::{Kind, TchError, Tensor};

#[cfg(target_endian = "big")]
compile_error!(
    "tensors are read and written as the machine holds them, which must be little-endian"
);

/// Bytes moved at a time: small enough for a core's cache, large enough for a copy from a GPU.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// A view \[bytes\] uint8 onto a contiguous tensor's storage.
pub(crate) fn view(tensor: &Tensor) -> Result<Tensor, TchError> {
    tensor.f_detach()?.f_view([-1])?.f_view_dtype(Kind::Uint8)
}

/// Hands the tensor's bytes to `take`, in order.
pub(crate) fn for_each_chunk<E: From<TchError>>(
    tensor: &Tensor,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let bytes = view(tensor)?;
    let total = bytes.numel();
    for start in (0..total).step_by(CHUNK_BYTES) {
        let length = CHUNK_BYTES.min(total - start);
        buffer.resize(length, 0);
        bytes
            .f_narrow(0, start as i64, length as i64)?
            .f_copy_data(buffer, length)?;
        take(buffer)?;
    }
    Ok(())
}

/// Bytes of a tensor.
pub(crate) fn size(tensor: &Tensor) -> u64 {
    (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64
}

/// The extents of a tensor, in elements.
pub(crate) fn shape(tensor: &Tensor) -> Vec<u64> {
    tensor.size().iter().map(|&extent| extent as u64).collect()
}

/// safetensors' word for a tensor's element type.
pub(crate) fn dtype(tensor: &Tensor) -> Result<&'static str, TchError> {
    Ok(match tensor.f_kind()? {
        Kind::Float => "F32",
        Kind::Double => "F64",
        Kind::Half => "F16",
        Kind::BFloat16 => "BF16",
        Kind::Int64 => "I64",
        Kind::Int => "I32",
        Kind::Uint8 => "U8",
        kind => {
            return Err(TchError::Kind(format!(
                "{kind:?} has no place in a checkpoint"
            )));
        }
    })
}
