//! Lists that come in pages.

use xylem_client::Error;

/// How many items a page is asked for.
pub(crate) const SIZE: u32 = 200;

/// All of a list. `page` is asked with the token that the page before it gave, at first an empty one,
/// and answers its items and the next token, which is empty after the last page.
pub(crate) async fn all<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Error>,
) -> Result<Vec<T>, Error> {
    let (mut items, mut token) = page(String::new()).await?;
    while !token.is_empty() {
        let more;
        (more, token) = page(token).await?;
        items.extend(more);
    }
    Ok(items)
}
