use muster_access::{ANY_NODE, Identity, Role};
use tonic::{Request, Status};

/// Who makes a call; the guard puts it on each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// This coordinator asks nobody who they are.
    Anyone,
    /// Someone who proved it.
    Known(Identity),
}

impl Caller {
    /// Who makes this call.
    pub(crate) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        // Without the guard nobody is let in.
        caller.ok_or_else(|| Status::internal("nobody saw who makes this call"))
    }

    /// Whose a job is that this caller submits as `user`'s.
    pub(crate) fn owner(&self, user: &str) -> Result<String, Status> {
        match self {
            Self::Known(caller) if user.is_empty() => Ok(caller.name.clone()),
            Self::Known(Identity { name, role }) if *role != Role::Admin && name != user => {
                Err(Status::permission_denied(format!(
                    "queue.user is {user}, but you are {name}; leave it empty, or have an admin submit for others"
                )))
            }
            _ => Ok(user.to_owned()),
        }
    }

    /// Whether this caller may change a job of `user`'s.
    pub(crate) fn may_change(&self, user: &str) -> Result<(), Status> {
        match self {
            Self::Known(Identity { name, role }) if *role != Role::Admin && name != user => {
                Err(Status::permission_denied(format!(
                    "the job is {user}'s, and you are {name}; ask them or an admin"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Whether this caller speaks for `node`.
    pub(crate) fn may_speak_for(&self, node: &str) -> Result<(), Status> {
        match self {
            Self::Known(caller) if caller.name != ANY_NODE && caller.name != node => {
                Err(Status::permission_denied(format!(
                    "the certificate is of node {}, not of {node}; join under that name, or issue another one",
                    caller.name
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn known(name: &str, role: Role) -> Caller {
        Caller::Known(Identity {
            name: name.into(),
            role,
        })
    }

    #[test]
    fn a_job_is_its_submitters_unless_an_admin_says_otherwise() {
        let (anna, root) = (known("anna", Role::Submitter), known("root", Role::Admin));
        assert_eq!(anna.owner("").unwrap(), "anna");
        assert_eq!(anna.owner("anna").unwrap(), "anna");
        assert!(
            anna.owner("eve")
                .unwrap_err()
                .message()
                .contains("you are anna")
        );
        assert_eq!(root.owner("").unwrap(), "root");
        assert_eq!(root.owner("eve").unwrap(), "eve");
        assert_eq!(Caller::Anyone.owner("eve").unwrap(), "eve");
    }

    #[test]
    fn people_change_their_own_jobs_and_admins_all() {
        assert!(known("anna", Role::Submitter).may_change("anna").is_ok());
        assert!(known("anna", Role::Submitter).may_change("eve").is_err());
        assert!(known("root", Role::Admin).may_change("eve").is_ok());
        assert!(Caller::Anyone.may_change("eve").is_ok());
    }

    #[test]
    fn a_node_speaks_for_itself() {
        assert!(known("node-1", Role::Node).may_speak_for("node-1").is_ok());
        assert!(known("node-1", Role::Node).may_speak_for("node-2").is_err());
        assert!(known(ANY_NODE, Role::Node).may_speak_for("node-2").is_ok());
    }
}
