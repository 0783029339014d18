use muster_access::Role;

/// What a call asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    /// Nothing: probes carry no credentials.
    Nothing,
    /// A caller who is known, whatever the role.
    Known,
    /// A caller with this role, or with one that covers it.
    Role(Role),
    /// It is not in the table, so nobody may.
    Unlisted,
}

/// Services that are not Muster's own.
const OTHERS: &[(&str, Needed)] = &[
    ("grpc.health.v1.Health", Needed::Nothing),
    (
        "grpc.reflection.v1.ServerReflection",
        Needed::Role(Role::Viewer),
    ),
    (
        "grpc.reflection.v1alpha.ServerReflection",
        Needed::Role(Role::Viewer),
    ),
];

/// Services of which every method is the same party's.
const SERVICES: &[(&str, Role)] = &[
    ("muster.v1.AgentService", Role::Node),
    ("muster.v1.WorkerService", Role::Node),
    ("muster.v1.StoreService", Role::Node),
];

/// What people call.
const JOB_METHODS: &[(&str, Role)] = &[
    ("ListJobs", Role::Viewer),
    ("GetStatus", Role::Viewer),
    ("WatchStatus", Role::Viewer),
    ("ListEvents", Role::Viewer),
    ("GetHistory", Role::Viewer),
    ("ListSteps", Role::Viewer),
    ("GetLogs", Role::Viewer),
    ("ListCheckpoints", Role::Viewer),
    ("ListNodes", Role::Viewer),
    ("Submit", Role::Submitter),
    ("Cancel", Role::Submitter),
    ("Stop", Role::Submitter),
    ("Resume", Role::Submitter),
    ("CordonNode", Role::Admin),
    ("DrainNode", Role::Admin),
    ("UncordonNode", Role::Admin),
];

/// What a call to `path`, as `/package.Service/Method`, asks of its caller.
pub(crate) fn needed(path: &str) -> Needed {
    let mut parts = path.split('/').skip(1);
    let (Some(service), Some(method), None) = (parts.next(), parts.next(), parts.next()) else {
        return Needed::Unlisted;
    };
    if let Some((_, needed)) = OTHERS.iter().find(|(name, _)| *name == service) {
        return *needed;
    }
    // Agents ask it too, when their machine is looked over.
    if (service, method) == ("muster.v1.JobService", "Describe") {
        return Needed::Known;
    }
    let role = match service {
        "muster.v1.JobService" => JOB_METHODS.iter().find(|(name, _)| *name == method),
        _ => SERVICES.iter().find(|(name, _)| *name == service),
    };
    role.map_or(Needed::Unlisted, |(_, role)| Needed::Role(*role))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use muster_proto::v1::FILE_DESCRIPTOR_SET;
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_method_has_its_role_and_every_role_its_method() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let mut job_methods = 0;
        for file in &set.file {
            for service in &file.service {
                let service_name = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    let path = format!("/{service_name}/{}", method.name());
                    assert_ne!(needed(&path), Needed::Unlisted, "{path} has no role");
                    let listed = matches!(needed(&path), Needed::Role(_));
                    job_methods += usize::from(service.name() == "JobService" && listed);
                }
            }
        }
        assert_eq!(
            job_methods,
            JOB_METHODS.len(),
            "the table names a method that is not there"
        );
    }

    #[test]
    fn what_is_not_listed_is_nobodys() {
        for path in [
            "",
            "/",
            "//",
            "/muster.v1.JobService",
            "/muster.v1.JobService/Erase",
        ] {
            assert_eq!(needed(path), Needed::Unlisted, "{path}");
        }
        assert_eq!(needed("/muster.v1.JobService/Submit/x"), Needed::Unlisted);
        assert_eq!(needed("/grpc.health.v1.Health/Check"), Needed::Nothing);
    }
}
