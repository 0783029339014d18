//! Model directories of Hugging Face: `config.json` and safetensors files, read and written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use muster_arch::{
    ModelConfig,
    hugging_face::{
        ImportError, Mismatch, TensorMatch, hugging_face_name, match_tensors, model_config,
    },
};
use muster_model::{Model, NamedTensor};
use serde_json::Value;
use tch::{Kind, TchError, Tensor};

use crate::{SnapshotError, shard_writer};

/// The file with the configuration.
const CONFIG: &str = "config.json";
/// The file with all tensors, where they are not spread over several.
const WEIGHTS: &str = "model.safetensors";
/// Where they are: which tensor lies in which file.
const WEIGHTS_INDEX: &str = "model.safetensors.index.json";

/// Why a directory is no model that can be used.
#[derive(Debug, thiserror::Error)]
pub enum HuggingFaceError {
    /// A file is not there.
    #[error("{}: there is no {wanted}", .directory.display())]
    Missing {
        /// Where it was looked for.
        directory: PathBuf,
        /// What was looked for.
        wanted: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model is of a kind that is not known here.
    #[error("{}: {source}", .directory.display())]
    Config {
        /// Where it was read.
        directory: PathBuf,
        /// What is wrong with it.
        source: ImportError,
    },
    /// The tensors are not the model's.
    #[error("{}: {source}", .directory.display())]
    Tensors {
        /// Where they were read.
        directory: PathBuf,
        /// Every difference.
        source: Mismatch,
    },
    /// libtorch refused.
    #[error("libtorch could not take a tensor: {0}")]
    Torch(#[from] TchError),
}

/// Where a tensor lies.
struct Place {
    file: PathBuf,
    /// First byte and length.
    bytes: (u64, u64),
    shape: Vec<u64>,
    kind: Option<Kind>,
}

/// A model directory whose configuration and tensors' names and shapes were found to fit together.
pub struct HuggingFaceModel {
    source: Value,
    config: ModelConfig,
    matches: Vec<TensorMatch>,
    places: BTreeMap<String, Place>,
}

impl HuggingFaceModel {
    /// Reads the configuration and the headers. Tensors whose names begin with one of `left_out` are passed over.
    ///
    /// # Errors
    /// See [`HuggingFaceError`]. Nothing is read twice, and no tensor's values yet.
    pub fn open(directory: &Path, left_out: &[String]) -> Result<Self, HuggingFaceError> {
        let source = json(&directory.join(CONFIG), directory, CONFIG)?;
        let mut places = BTreeMap::new();
        for file in weight_files(directory)? {
            places.extend(headers(&directory.join(file))?);
        }
        places.retain(|name, _| !left_out.iter().any(|prefix| name.starts_with(prefix)));
        let names: BTreeSet<String> = places.keys().cloned().collect();
        let directory = || directory.to_path_buf();
        let config = model_config(&source, &names).map_err(|source| HuggingFaceError::Config {
            directory: directory(),
            source,
        })?;
        let shapes = places
            .iter()
            .map(|(name, place)| (name.clone(), place.shape.clone()))
            .collect();
        let matches =
            match_tensors(&config, &shapes).map_err(|source| HuggingFaceError::Tensors {
                directory: directory(),
                source,
            })?;
        Ok(Self {
            source,
            config,
            matches,
            places,
        })
    }

    /// What the model is made of.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// `config.json` as it was.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The parameters in their table's order, in fp32, under the names that checkpoints give them.
    ///
    /// # Errors
    /// See [`HuggingFaceError`].
    pub fn tensors(&self) -> Result<Vec<NamedTensor>, HuggingFaceError> {
        let named = |found: &TensorMatch| {
            Ok(NamedTensor {
                name: format!("model.{}", found.parameter),
                tensor: read(&found.tensor, &self.places[&found.tensor])?,
            })
        };
        self.matches.iter().map(named).collect()
    }
}

/// Writes a model's parameters as the one safetensors file of a model directory.
///
/// # Errors
/// See [`SnapshotError`].
pub fn write_hugging_face_weights(
    model: &dyn Model,
    directory: &Path,
) -> Result<(), SnapshotError> {
    let named = |parameter: &NamedTensor| -> Result<NamedTensor, TchError> {
        Ok(NamedTensor {
            name: hugging_face_name(model.config(), &parameter.name).to_owned(),
            tensor: parameter.tensor.f_detach()?,
        })
    };
    let tensors: Result<Vec<_>, _> = model.parameters().tensors().iter().map(named).collect();
    shard_writer::write(&tensors?, directory, WEIGHTS).map(drop)
}

/// The names of the files that hold the tensors.
fn weight_files(directory: &Path) -> Result<Vec<String>, HuggingFaceError> {
    if directory.join(WEIGHTS).is_file() {
        return Ok(vec![WEIGHTS.into()]);
    }
    let path = directory.join(WEIGHTS_INDEX);
    let wanted = format!(
        "{WEIGHTS} and no {WEIGHTS_INDEX}; other formats are to be saved as safetensors first"
    );
    let index = json(&path, directory, &wanted)?;
    let files: Option<BTreeSet<String>> = index["weight_map"].as_object().and_then(|map| {
        let files = map.values();
        files.map(|file| file.as_str().map(str::to_owned)).collect()
    });
    let plain = |files: &BTreeSet<String>| !files.iter().any(|file| file.contains(['/', '\\']));
    match files.filter(plain) {
        Some(files) => Ok(files.into_iter().collect()),
        None => Err(malformed(
            &path,
            "its weight_map does not name files of this directory",
        )),
    }
}

fn json(path: &Path, directory: &Path, wanted: &str) -> Result<Value, HuggingFaceError> {
    let text = fs::read(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => HuggingFaceError::Missing {
            directory: directory.into(),
            wanted: wanted.into(),
        },
        _ => unreadable(path)(source),
    })?;
    serde_json::from_slice(&text).map_err(|error| malformed(path, format!("no JSON: {error}")))
}

/// The places of all tensors of one safetensors file, by name.
fn headers(path: &Path) -> Result<BTreeMap<String, Place>, HuggingFaceError> {
    let mut file = File::open(path).map_err(unreadable(path))?;
    let total = file.metadata().map_err(unreadable(path))?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(unreadable(path))?;
    let length = u64::from_le_bytes(length);
    if length > total.saturating_sub(8) {
        return Err(malformed(path, "its header is longer than the file"));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(unreadable(path))?;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&text)
        .map_err(|error| malformed(path, format!("its header is no JSON object: {error}")))?;
    let (data, mut places) = (8 + length, BTreeMap::new());
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let place = place(entry, path, data).filter(|place| place.bytes.0 + place.bytes.1 <= total);
        let Some(place) = place else {
            return Err(malformed(
                path,
                format!("its header does not say where {name} lies"),
            ));
        };
        places.insert(name.clone(), place);
    }
    Ok(places)
}

/// What a header says of a tensor; `data` is where the file's data starts.
fn place(entry: &Value, path: &Path, data: u64) -> Option<Place> {
    let shape = entry["shape"].as_array()?.iter().map(Value::as_u64);
    let shape: Vec<u64> = shape.collect::<Option<_>>()?;
    let offset = |index: usize| entry["data_offsets"][index].as_u64();
    let (start, end) = (offset(0)?, offset(1)?);
    let kind = match entry["dtype"].as_str()? {
        "F64" => Some(Kind::Double),
        "F32" => Some(Kind::Float),
        "F16" => Some(Kind::Half),
        "BF16" => Some(Kind::BFloat16),
        _ => None,
    };
    let length = end.checked_sub(start)?;
    if let Some(kind) = kind {
        let elements = shape
            .iter()
            .try_fold(1_u64, |n, extent| n.checked_mul(*extent))?;
        let wanted = elements.checked_mul(kind.elt_size_in_bytes() as u64)?;
        (wanted == length).then_some(())?;
    }
    Some(Place {
        file: path.into(),
        bytes: (data.checked_add(start)?, length),
        shape,
        kind,
    })
}

/// A tensor's values, in fp32.
fn read(name: &str, place: &Place) -> Result<Tensor, HuggingFaceError> {
    let Some(kind) = place.kind else {
        let reason = format!("{name} is neither of F32, F16, BF16 nor F64");
        return Err(malformed(&place.file, reason));
    };
    let unreadable = || unreadable(&place.file);
    let mut file = File::open(&place.file).map_err(unreadable())?;
    let (start, length) = place.bytes;
    file.seek(SeekFrom::Start(start)).map_err(unreadable())?;
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes).map_err(unreadable())?;
    let shape: Vec<i64> = place.shape.iter().map(|&extent| extent as i64).collect();
    Ok(Tensor::f_from_data_size(&bytes, &shape, kind)?.f_to_kind(Kind::Float)?)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> HuggingFaceError {
    let path = path.to_path_buf();
    move |source| HuggingFaceError::Unreadable { path, source }
}

fn malformed(path: &Path, reason: impl Into<String>) -> HuggingFaceError {
    HuggingFaceError::Malformed {
        path: path.into(),
        reason: reason.into(),
    }
}
