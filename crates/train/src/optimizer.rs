use muster_arch::Decay;
use muster_model::{NamedTensor, Parameters};
use muster_ops::{AdamwOptions, OpsError, fused_adamw};
use muster_spec::OptimizerSpec;
use tch::{Kind, TchError, Tensor, no_grad};

/// Parameters that share a weight decay, by their place in the table.
struct DecayGroup {
    members: Vec<usize>,
    weight_decay: f64,
}

/// AdamW (Loshchilov & Hutter 2019): two moments a parameter and one count of updates, all fp32.
pub(crate) struct Optimizer {
    exp_avg: Vec<Tensor>,
    exp_avg_sq: Vec<Tensor>,
    step: Tensor, // []
    groups: [DecayGroup; 2],
    spec: OptimizerSpec,
}

impl Optimizer {
    /// Zero moments for the parameters, which decay as their table says.
    pub(crate) fn new(parameters: &Parameters, spec: &OptimizerSpec) -> Result<Self, TchError> {
        let zeros = || {
            let all = parameters.tensors().iter();
            all.map(|p| p.tensor.f_zeros_like()?.f_detach())
                .collect::<Result<Vec<_>, TchError>>()
        };
        let device = parameters
            .tensors()
            .first()
            .map_or(tch::Device::Cpu, |p| p.tensor.device());
        let group = |decay, weight_decay| {
            let table = parameters.table().parameters().iter().enumerate();
            let members = table
                .filter(|(_, p)| p.decay == decay)
                .map(|(index, _)| index)
                .collect();
            DecayGroup {
                members,
                weight_decay,
            }
        };
        Ok(Self {
            exp_avg: zeros()?,
            exp_avg_sq: zeros()?,
            step: Tensor::f_zeros([], (Kind::Float, device))?,
            groups: [
                group(Decay::Decayed, spec.weight_decay),
                group(Decay::Exempt, 0.0),
            ],
            spec: spec.clone(),
        })
    }

    /// Back to before the first update.
    pub(crate) fn reset(&self) -> Result<(), OpsError> {
        muster_ops::zero_(&self.exp_avg)?;
        muster_ops::zero_(&self.exp_avg_sq)?;
        muster_ops::zero_(&[self.step.shallow_clone()])
    }

    /// All state, `optimizer.…`, first moments first; the tensors are live.
    pub(crate) fn tensors(&self, parameters: &Parameters) -> Vec<NamedTensor> {
        let moments = |kind: &str, tensors: &[Tensor]| {
            let named = parameters.tensors().iter().zip(tensors);
            named
                .map(|(p, tensor)| NamedTensor {
                    name: format!("optimizer.{kind}.{}", p.name),
                    tensor: tensor.shallow_clone(),
                })
                .collect::<Vec<_>>()
        };
        let step = NamedTensor {
            name: "optimizer.step".into(),
            tensor: self.step.shallow_clone(),
        };
        let mut all = moments("exp_avg", &self.exp_avg);
        all.extend(moments("exp_avg_sq", &self.exp_avg_sq));
        all.push(step);
        all
    }

    /// One update. An error can leave the state partly updated.
    pub(crate) fn update(
        &mut self,
        parameters: &[Tensor],
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<(), UpdateError> {
        let _ = no_grad(|| self.step.f_add_scalar_(1.0))?;
        for group in &self.groups {
            let select = |tensors: &[Tensor]| -> Vec<Tensor> {
                group
                    .members
                    .iter()
                    .map(|&index| tensors[index].shallow_clone())
                    .collect()
            };
            let options = AdamwOptions {
                learning_rate,
                beta1: self.spec.beta1,
                beta2: self.spec.beta2,
                epsilon: self.spec.epsilon,
                weight_decay: group.weight_decay,
            };
            fused_adamw(
                &select(parameters),
                &select(gradients),
                &select(&self.exp_avg),
                &select(&self.exp_avg_sq),
                &self.step,
                &options,
            )?;
        }
        Ok(())
    }
}

/// What can go wrong inside an update.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(transparent)]
    Torch(#[from] TchError),
    #[error(transparent)]
    Ops(#[from] OpsError),
}
