use muster_model::NamedTensor;
use tch::TchError;
use xxhash_rust::xxh3::Xxh3;

use crate::bytes;

/// xxh3-64 over each tensor's name, element type, shape and bytes, in order.
pub(crate) fn state_hash(tensors: &[NamedTensor]) -> Result<u64, TchError> {
    let mut hasher = Xxh3::new();
    let mut buffer = Vec::with_capacity(bytes::CHUNK_BYTES);
    for NamedTensor { name, tensor } in tensors {
        let (dtype, shape) = (bytes::dtype(tensor)?, bytes::shape(tensor));
        hasher.update(format!("{name}\0{dtype}\0{shape:?}\n").as_bytes());
        bytes::for_each_chunk(tensor, &mut buffer, |chunk| {
            hasher.update(chunk);
            Ok::<_, TchError>(())
        })?;
    }
    Ok(hasher.digest())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    fn hash(name: &str, tensor: &Tensor) -> u64 {
        state_hash(&[NamedTensor {
            name: name.into(),
            tensor: tensor.shallow_clone(),
        }])
        .unwrap()
    }

    #[test]
    fn names_shapes_types_and_every_byte_count() {
        let n = bytes::CHUNK_BYTES as i64 / 4 + 3;
        let zeros = Tensor::zeros([n], (Kind::Float, Device::Cpu));
        let first = hash("a", &zeros);
        assert_eq!(first, hash("a", &zeros.copy()));
        assert_ne!(first, hash("b", &zeros));
        assert_ne!(first, hash("a", &zeros.view([1, n])));
        assert_ne!(first, hash("a", &zeros.view_dtype(Kind::Int)));
        for place in [0, n / 2, n - 1] {
            let changed = zeros.copy();
            let _ = changed.get(place).fill_(f64::from(f32::MIN_POSITIVE));
            assert_ne!(first, hash("a", &changed), "element {place}");
        }
        let scalar = Tensor::zeros([], (Kind::Float, Device::Cpu));
        assert_ne!(hash("a", &scalar), hash("a", &(scalar.copy() + 1.0)));
    }
}
