use muster_types::Digest;

use crate::{FileEntry, TensorEntry};

/// One digest over parameters and optimizer state: blake3 over a line `name \0 dtype \0 shape \0 digest \n` for each
/// tensor, sorted by name. It does not depend on how the tensors lie in files, and so not on the world size that wrote them.
pub fn state_digest(files: &[FileEntry]) -> Digest {
    let mut tensors: Vec<&TensorEntry> = files.iter().flat_map(|file| &file.tensors).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut hasher = blake3::Hasher::new();
    for tensor in tensors {
        let TensorEntry {
            name,
            dtype,
            shape,
            digest,
        } = tensor;
        hasher.update(format!("{name}\0{dtype}\0{shape:?}\0{digest}\n").as_bytes());
    }
    Digest::new(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor(index: u8) -> TensorEntry {
        TensorEntry {
            name: format!("model.{index}"),
            dtype: "F32".into(),
            shape: vec![u64::from(index), 2],
            digest: Digest::new([index; 32]),
        }
    }

    fn layout(owners: &[usize], world: usize) -> Vec<FileEntry> {
        let mut files: Vec<_> = (0..world)
            .map(|rank| FileEntry {
                file: format!("part-{rank}-of-{world}"),
                bytes: rank as u64,
                digest: Digest::new([rank as u8; 32]),
                tensors: Vec::new(),
            })
            .collect();
        for (index, owner) in owners.iter().enumerate() {
            files[owner % world].tensors.push(tensor(index as u8));
        }
        files
    }

    proptest! {
        #[test]
        fn the_layout_does_not_matter(owners in prop::collection::vec(0usize..8, 1..20), world in 1usize..8) {
            let one = layout(&owners, 1);
            let many = layout(&owners, world);
            prop_assert_eq!(state_digest(&one), state_digest(&many));
            let mut reversed = many;
            reversed.reverse();
            prop_assert_eq!(state_digest(&one), state_digest(&reversed));
        }

        #[test]
        fn every_property_of_a_tensor_matters(count in 1usize..6, which in 0usize..6, change in 0u8..4) {
            let mut files = layout(&vec![0; count], 1);
            let before = state_digest(&files);
            let tensor = &mut files[0].tensors[which % count];
            match change {
                0 => tensor.name.push('x'),
                1 => tensor.dtype = "BF16".into(),
                2 => tensor.shape.push(1),
                _ => tensor.digest = Digest::new([255; 32]),
            }
            prop_assert_ne!(before, state_digest(&files));
        }
    }
}
