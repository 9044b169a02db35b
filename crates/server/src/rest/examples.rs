//! `:classify` and `:regress` (`docs/spec/rest_api.md` §10).

use bytes::Bytes;

use super::{RestOptions, choice};
use crate::body;
use crate::call::Call;
use crate::codec::json;
use crate::error::{Result, expect_memory};
use crate::router::tensorflow_serving::ModelRoute;
use crate::service::Service;
use crate::service::examples::{self, Head, Kind};
use crate::service::meter::RequestMeter;
use crate::service::priority;
use crate::signature::DEFAULT_SIGNATURE;
use crate::traffic::Caller;

pub(super) async fn infer(
    service: &Service,
    options: RestOptions,
    route: &ModelRoute<'_>,
    caller: &(dyn Caller + Sync),
    body: &[u8],
    kind: Kind,
    meter: &mut RequestMeter,
) -> Result<Bytes> {
    let call = Call::default().within(options.timeout, meter.started()).with_priority(priority::of(caller)?);
    expect_memory(body.len().saturating_mul(4))?;
    let request = body::work_on(body.len(), || json::decode_examples(body, options.max_nesting))?;
    let handle = service.serving_map.resolve(&route.model, choice(&route.version), caller)?.handle;
    let handle = meter.claim(handle);
    let name = match &request.signature_name[..] {
        b"" => DEFAULT_SIGNATURE.as_bytes(),
        name => name,
    };
    let head = Head::find(handle, kind, name, service.options.check_method_names)?;
    let tensor = body::work_on(request.examples.size_in_bytes(), || request.examples.into_tensor())?;
    let inference = examples::infer(handle, &head, tensor, call).await?;
    body::work_on(body.len(), || json::encode_results(&inference)).map(Bytes::from)
}
