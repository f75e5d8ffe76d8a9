//! What the SDK does not do with headers: the clock of an answer, and a checksum that every server knows.

use super::s3::time;
use super::s3_files::digest;
use crate::world::Timestamp;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::DateTime;

/// Notes the Date header of a reply.
#[derive(Debug)]
pub(super) struct DateOf(pub(super) std::sync::Arc<parking_lot::Mutex<Option<Timestamp>>>);

impl Intercept for DateOf {
    fn name(&self) -> &'static str {
        "DateOf"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let header = context.response().headers().get("date");
        let date = header.and_then(|text| {
            DateTime::from_str(text, aws_smithy_types::date_time::Format::HttpDate).ok()
        });
        *self.0.lock() = date.as_ref().map(|date| time(Some(date)));
        Ok(())
    }
}

/// Content-MD5 of the whole body. Removing many objects at once asks for a checksum: Amazon takes those of the SDK,
/// others of the family know this one alone.
#[derive(Debug)]
pub(super) struct ContentMd5;

impl Intercept for ContentMd5 {
    fn name(&self) -> &'static str {
        "ContentMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let body = request.body().bytes().ok_or("the body is not in memory")?;
        let sum = digest(body);
        request.headers_mut().insert("content-md5", sum);
        Ok(())
    }
}
