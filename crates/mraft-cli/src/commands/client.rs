// SPDX-License-Identifier: Apache-2.0

//! From the flags that say where a cluster is to calls that are waited for.

use mraft_api::{Client, ClientConfig, ClientError};
use tokio::time::Instant;

use crate::cli::ClientArgs;
use crate::exit::CommandError;

/// Makes a client, lets `call` use it, and waits. All calls together have the command's time.
pub(super) fn with<T, F>(args: &ClientArgs, call: impl FnOnce(Client) -> F) -> Result<T, CommandError>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let config =
        ClientConfig { endpoints: args.urls.clone(), ca_file: args.ca_file.clone(), timeout: args.timeout };
    let client = Client::new(&config).map_err(|error| CommandError::usage(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| CommandError::failed(format!("the command cannot start: {error}")))?;
    Ok(runtime.block_on(async { call(client.with_deadline(Instant::now() + args.timeout)).await })?)
}
