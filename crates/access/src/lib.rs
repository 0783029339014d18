//! Who may do what on a cluster, and how they prove it.
//!
//! A caller is known by a certificate of the cluster's own authority or by a token; either names a caller and a role. A
//! *credentials directory* holds what one party proves itself with, under the names that Kubernetes and cert-manager use:
//! `ca.crt`, `tls.crt` and `tls.key`, and `token`. It is read again for each connection, so that whoever renews a file need
//! not restart anything.

mod authority;
mod certificate;
mod credentials;
mod dial;
mod identity;
mod new_file;
mod server_tls;
mod token_file;

pub use authority::{Authority, AuthorityError, Subject, Validity};
pub use certificate::{Certificate, CertificateError};
pub use credentials::{Credentials, CredentialsError, Secret};
pub use dial::{Connection, Dial, DialError, place, whole_cause};
pub use identity::{ANY_NODE, Identity, Role, UnknownRole, is_a_name};
pub use server_tls::{ClientCertificates, ServerTls};
pub use token_file::{TokenError, TokenFile};
