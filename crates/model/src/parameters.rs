use muster_arch::{Parameter, ParameterTable};
use muster_types::Seed;
use tch::{Device, Kind, TchError, Tensor};

use crate::{BuildError, init};

/// A tensor and its name. Clones of the tensor share its storage.
#[derive(Debug)]
pub struct NamedTensor {
    /// Its name; for a parameter, the one in its table.
    pub name: String,
    /// The live tensor.
    pub tensor: Tensor,
}

/// A model's parameters: fp32 leaves of the autograd graph, in the order of their table.
#[derive(Debug)]
pub struct Parameters {
    table: ParameterTable,
    tensors: Vec<NamedTensor>,
}

impl Parameters {
    /// Allocates the table's tensors and fills them from the seed.
    ///
    /// # Errors
    /// libtorch's: memory that ran out.
    pub fn new(table: ParameterTable, device: Device, seed: Seed) -> Result<Self, TchError> {
        let allocate = |parameter: &Parameter| {
            let shape: Vec<i64> = parameter
                .shape
                .iter()
                .map(|&extent| extent as i64)
                .collect();
            let tensor =
                Tensor::f_empty(shape, (Kind::Float, device))?.f_set_requires_grad(true)?;
            Ok(NamedTensor {
                name: parameter.name.clone(),
                tensor,
            })
        };
        let tensors = table
            .parameters()
            .iter()
            .map(allocate)
            .collect::<Result<_, TchError>>()?;
        let parameters = Self { table, tensors };
        parameters.initialise(seed)?;
        Ok(parameters)
    }

    /// Overwrites all parameters with the seed's initial values: a function of seed, place in the table and element alone.
    ///
    /// # Errors
    /// libtorch's: memory that ran out. The parameters are then partly old and partly new.
    pub fn initialise(&self, seed: Seed) -> Result<(), TchError> {
        for (index, (parameter, named)) in self
            .table
            .parameters()
            .iter()
            .zip(&self.tensors)
            .enumerate()
        {
            init::fill(&named.tensor, parameter.init, seed, index as u64)?;
        }
        Ok(())
    }

    /// Names, shapes and decay.
    pub fn table(&self) -> &ParameterTable {
        &self.table
    }

    /// The tensors, in the table's order.
    pub fn tensors(&self) -> &[NamedTensor] {
        &self.tensors
    }

    /// A handle on the parameter of that name.
    ///
    /// # Errors
    /// [`BuildError::NoSuchParameter`].
    pub fn get(&self, name: &str) -> Result<Tensor, BuildError> {
        self.find(name)
            .ok_or_else(|| BuildError::NoSuchParameter { name: name.into() })
    }

    /// A handle on the parameter of that name, where there is one.
    pub(crate) fn find(&self, name: &str) -> Option<Tensor> {
        let mut named = self.tensors.iter();
        named
            .find(|named| named.name == name)
            .map(|named| named.tensor.shallow_clone())
    }
}
