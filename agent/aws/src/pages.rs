//! Paged lists, read page by page, and never taken for whole when they are not.

use std::error::Error;

use aws_smithy_async::future::pagination_stream::PaginationStream;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use collect::Fault;

use crate::fault::fault;
use crate::sweep::Run;

/// The pages of one list.
///
/// The SDK's paginators end quietly when a page repeats its predecessor's token, or says that more
/// follows without a token to get it. Both are a broken list, so each page is asked whether more
/// was to come.
pub(crate) struct Pages<P, E> {
    call: &'static str,
    stream: PaginationStream<Result<P, SdkError<E, HttpResponse>>>,
    continues: fn(&P) -> bool,
    unfinished: bool,
}

impl<P, E> Pages<P, E>
where
    E: ProvideErrorMetadata + Error + 'static,
{
    /// Wraps a paginator's stream; `continues` tells whether a page says that another follows.
    pub(crate) fn new(
        call: &'static str,
        stream: PaginationStream<Result<P, SdkError<E, HttpResponse>>>,
        continues: fn(&P) -> bool,
    ) -> Self {
        Self {
            call,
            stream,
            continues,
            unfinished: false,
        }
    }

    /// Returns the next page, or `None` behind the last one.
    pub(crate) async fn next(&mut self, run: &Run<'_>) -> Result<Option<P>, Fault> {
        match self.stream.next().await {
            Some(page) => {
                let page = page.map_err(|error| run.note(fault(self.call, &error)))?;
                self.unfinished = (self.continues)(&page);
                Ok(Some(page))
            }
            None if self.unfinished => Err(run.note(Fault {
                call: self.call.to_owned(),
                code: "truncated".to_owned(),
            })),
            None => Ok(None),
        }
    }

    /// Reads all pages and returns what `each` takes from them: for lists that AWS keeps short.
    pub(crate) async fn all<T>(
        mut self,
        run: &Run<'_>,
        each: impl Fn(P) -> Vec<T>,
    ) -> Result<Vec<T>, Fault> {
        let mut all = Vec::new();
        while let Some(page) = self.next(run).await? {
            all.extend(each(page));
        }
        Ok(all)
    }
}

/// Whether a token leads to another page.
pub(crate) fn leads_on(token: Option<&str>) -> bool {
    token.is_some_and(|token| !token.is_empty())
}
