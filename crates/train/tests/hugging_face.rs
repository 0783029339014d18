//! Model directories of Hugging Face: what is written is read as it was, in one file or several, and what is wrong is named.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{collections::BTreeMap, fs, path::Path};

use muster_arch::hugging_face::hugging_face_config;
use muster_train::{HuggingFaceError, HuggingFaceModel, Trainer, write_hugging_face_weights};
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::json;

const WEIGHTS: &str = "model.safetensors";

/// A small model's directory.
fn written(directory: &Path) -> Trainer {
    let trainer = common::trainer(&common::spec());
    let config = hugging_face_config(&trainer.spec().model).unwrap();
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    write_hugging_face_weights(trainer.model(), directory).unwrap();
    trainer
}

fn open(directory: &Path) -> Result<HuggingFaceModel, HuggingFaceError> {
    HuggingFaceModel::open(directory, &[])
}

fn refusal(directory: &Path) -> String {
    open(directory).err().unwrap().to_string()
}

fn assert_reads_as(directory: &Path, trainer: &Trainer) {
    let read = open(directory).unwrap();
    assert_eq!(*read.config(), trainer.spec().model);
    let (tensors, parameters) = (read.tensors().unwrap(), trainer.model().parameters());
    assert_eq!(tensors.len(), parameters.tensors().len());
    for (read, original) in tensors.iter().zip(parameters.tensors()) {
        assert_eq!(read.name, format!("model.{}", original.name));
        assert!(read.tensor.equal(&original.tensor), "{}", read.name);
    }
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let trainer = written(directory.path());
    assert_reads_as(directory.path(), &trainer);
    // By the library that others read it with, too.
    let bytes = fs::read(directory.path().join(WEIGHTS)).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let format = metadata.metadata().as_ref().unwrap().get("format");
    assert_eq!(format.map(String::as_str), Some("pt"));
}

#[test]
fn tensors_may_be_spread_over_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let trainer = written(path);
    let bytes = fs::read(path.join(WEIGHTS)).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let mut parts: [Vec<(String, TensorView)>; 2] = [Vec::new(), Vec::new()];
    let mut map = BTreeMap::new();
    for (number, (name, view)) in whole.iter().enumerate() {
        let part = number % 2;
        map.insert(name.to_owned(), format!("part-{part}.safetensors"));
        parts[part].push((name.to_owned(), view));
    }
    for (number, part) in parts.into_iter().enumerate() {
        let file = path.join(format!("part-{number}.safetensors"));
        serialize_to_file(part, None, &file).unwrap();
    }
    let index = json!({ "metadata": {}, "weight_map": map });
    fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::remove_file(path.join(WEIGHTS)).unwrap();
    assert_reads_as(path, &trainer);

    fs::remove_file(path.join("part-1.safetensors")).unwrap();
    assert!(refusal(path).contains("part-1.safetensors"));
}

#[test]
fn lower_precision_is_widened() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let trainer = written(path);
    let bytes = fs::read(path.join(WEIGHTS)).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    // bfloat16 is the upper half of a little-endian float.
    let halves: Vec<_> = whole
        .iter()
        .map(|(name, view)| {
            let upper = |four: &[u8]| [four[2], four[3]];
            let bytes: Vec<u8> = view.data().chunks(4).flat_map(upper).collect();
            (name.to_owned(), view.shape().to_vec(), bytes)
        })
        .collect();
    let views: Vec<_> = halves
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap();
            (name.clone(), view)
        })
        .collect();
    serialize_to_file(views, None, &path.join(WEIGHTS)).unwrap();
    let read = open(path).unwrap().tensors().unwrap();
    for (read, original) in read.iter().zip(trainer.model().parameters().tensors()) {
        assert_eq!(read.tensor.kind(), tch::Kind::Float);
        let difference = (&read.tensor - &original.tensor).abs().max();
        let size = original.tensor.abs().max().double_value(&[]);
        assert!(difference.double_value(&[]) <= size / 128.0);
    }
}

#[test]
fn what_is_damaged_or_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(refusal(path).contains("there is no config.json"));
    written(path);
    let weights = path.join(WEIGHTS);
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 4]).unwrap();
    assert!(refusal(path).contains("does not say where"));
    fs::write(&weights, &bytes[..6]).unwrap();
    assert!(open(path).is_err());
    fs::write(&weights, [0xff; 64]).unwrap();
    assert!(refusal(path).contains("its header is longer than the file"));
    fs::remove_file(&weights).unwrap();
    assert!(refusal(path).contains("there is no model.safetensors"));
    fs::write(path.join("config.json"), "{").unwrap();
    assert!(refusal(path).contains("no JSON"));
}

#[test]
fn tensors_are_left_out_only_where_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    written(path);
    let left_out = ["transformer.ln_f.".to_owned()];
    let error = HuggingFaceModel::open(path, &left_out).err().unwrap();
    let HuggingFaceError::Tensors { source, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(
        source.missing,
        ["transformer.ln_f.weight", "transformer.ln_f.bias"]
    );
}
