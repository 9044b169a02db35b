//! `:classify` and `:regress` (`docs/spec/rest_api.md` §10).

use bytes::Bytes;

use super::{RestOptions, choice};
use crate::router::tensorflow_serving::ModelRoute;
use crate::service::Service;
use crate::serving::examples::{self, Kind};
use crate::serving::meter::RequestMeter;
use crate::serving::predict::Target;
use crate::serving::priority;
use crate::serving::traffic::Caller;
use servable_codec::json;
use servable_http::body;
use servable_model::call::Call;
use servable_model::error::{Result, expect_memory};

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
    let mut target = Target::new(&service.serving_map, &route.model, choice(&route.version), caller, meter);
    let name = &request.signature_name;
    let inference = examples::infer(&mut target, kind, name, request.examples, service.options, call).await?;
    body::work_on(body.len(), || json::encode_results(&inference)).map(Bytes::from)
}
