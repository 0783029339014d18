use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::Either;
use muster_access::{ANY_NODE, Identity, Role, Secret, TokenFile};
use tonic::{
    Status,
    codegen::http::{HeaderMap, Request, Response, header::AUTHORIZATION},
};
use tower::{Layer, Service};

use super::{
    Caller,
    listener::Peer,
    table::{Needed, needed},
};

/// Decides who may call what.
#[derive(Clone, Debug)]
pub(crate) enum Guard {
    /// Everyone who reaches the coordinator may call everything.
    Open,
    /// Callers have to be known, by a certificate or by one of these tokens.
    Closed(Arc<TokenFile>),
}

impl Guard {
    /// Who makes this call, if they may.
    fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        certified: Option<&Identity>,
    ) -> Result<Caller, Status> {
        let Self::Closed(tokens) = self else {
            return Ok(Caller::Anyone);
        };
        let needed = needed(path);
        if needed == Needed::Nothing {
            return Ok(Caller::Anyone);
        }
        // A token was meant for this call; a certificate comes with every call of the connection.
        let caller = match headers.get(AUTHORIZATION) {
            Some(value) => by_token(tokens, value.as_bytes())?,
            None => certified.cloned().ok_or_else(|| {
                Status::unauthenticated("this coordinator has to know who calls: it wants a token, or a certificate of its authority with a role")
            })?,
        };
        match needed {
            Needed::Role(role) if !caller.role.covers(role) => Err(Status::permission_denied(
                format!("{caller} may not call {path}: it takes the role {role}"),
            )),
            Needed::Unlisted => Err(Status::unimplemented(format!("there is no method {path}"))),
            Needed::Nothing | Needed::Known | Needed::Role(_) => Ok(Caller::Known(caller)),
        }
    }
}

fn by_token(tokens: &TokenFile, header: &[u8]) -> Result<Identity, Status> {
    let text = std::str::from_utf8(header).unwrap_or_default();
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => {
            return Err(Status::unauthenticated(
                "the authorization header has to be `Bearer TOKEN`",
            ));
        }
    };
    let mut holder = tokens
        .holder(&Secret::new(token))
        .ok_or_else(|| Status::unauthenticated("the token is not known, or was revoked"))?;
    // A node's token lets any node join; certificates are made for one.
    if holder.role == Role::Node {
        holder.name = ANY_NODE.into();
    }
    Ok(holder)
}

/// Puts the guard before the services.
#[derive(Clone, Debug)]
pub(crate) struct GuardLayer(pub(crate) Guard);

impl<S> Layer<S> for GuardLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            guard: self.0.clone(),
            inner,
        }
    }
}

/// Services behind the guard.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    guard: Guard,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let certified = peer.and_then(|peer| peer.identity.as_ref());
        let path = request.uri().path();
        match self.guard.admit(path, request.headers(), certified) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(status) => {
                let address = peer.map(|peer| peer.address.to_string());
                tracing::info!(
                    path,
                    address,
                    reason = status.message(),
                    "a call was refused"
                );
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tonic::Code;

    use super::*;

    const STATUS: &str = "/muster.v1.JobService/GetStatus";
    const SUBMIT: &str = "/muster.v1.JobService/Submit";
    const AGENT: &str = "/muster.v1.AgentService/Session";

    struct Door {
        guard: Guard,
        secret: Secret,
    }

    impl Door {
        fn for_a(role: Role) -> Self {
            let secret = Secret::generate().unwrap();
            let mut tokens = TokenFile::default();
            let identity = Identity {
                name: "anna".into(),
                role,
            };
            let epoch = "1970-01-01T00:00:00Z".parse().unwrap();
            tokens.add(identity, &secret, epoch).unwrap();
            Self {
                guard: Guard::Closed(Arc::new(tokens)),
                secret,
            }
        }

        fn try_header(&self, path: &str, header: &str) -> Result<Caller, Code> {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().unwrap());
            let admitted = self.guard.admit(path, &headers, None);
            admitted.map_err(|status| status.code())
        }

        fn try_token(&self, path: &str) -> Result<Caller, Code> {
            self.try_header(path, &format!("Bearer {}", self.secret.reveal()))
        }
    }

    #[test]
    fn a_stranger_may_only_probe() {
        let door = Door::for_a(Role::Admin);
        let stranger = |path: &str| {
            let admitted = door.guard.admit(path, &HeaderMap::new(), None);
            admitted.map_err(|status| status.code())
        };
        assert_eq!(stranger("/grpc.health.v1.Health/Check"), Ok(Caller::Anyone));
        for path in [
            STATUS,
            SUBMIT,
            AGENT,
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/x",
        ] {
            assert_eq!(stranger(path), Err(Code::Unauthenticated), "{path}");
        }
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer muster-00",
            "Basic YW5uYTo=",
        ] {
            assert_eq!(
                door.try_header(STATUS, header),
                Err(Code::Unauthenticated),
                "{header}"
            );
        }
    }

    #[test]
    fn a_token_opens_what_its_role_covers() {
        let viewer = Door::for_a(Role::Viewer);
        assert!(viewer.try_token(STATUS).is_ok());
        assert_eq!(viewer.try_token(SUBMIT), Err(Code::PermissionDenied));
        assert_eq!(viewer.try_token(AGENT), Err(Code::PermissionDenied));
        let admin = Door::for_a(Role::Admin);
        assert_eq!(admin.try_token(AGENT), Err(Code::PermissionDenied));
        assert_eq!(admin.try_token("/x"), Err(Code::Unimplemented));
        let node = Door::for_a(Role::Node);
        assert_eq!(node.try_token(STATUS), Err(Code::PermissionDenied));
        let Caller::Known(joined) = node.try_token(AGENT).unwrap() else {
            panic!("a node is known");
        };
        assert_eq!(joined.name, ANY_NODE);
    }

    #[test]
    fn a_wrong_token_is_not_made_good_by_a_certificate() {
        let door = Door::for_a(Role::Viewer);
        let certified = Identity {
            name: "root".into(),
            role: Role::Admin,
        };
        let mut headers = HeaderMap::new();
        let admitted = door.guard.admit(SUBMIT, &headers, Some(&certified));
        assert_eq!(admitted.unwrap(), Caller::Known(certified.clone()));
        headers.insert(AUTHORIZATION, "Bearer revoked".parse().unwrap());
        assert!(
            door.guard
                .admit(SUBMIT, &headers, Some(&certified))
                .is_err()
        );
    }
}
