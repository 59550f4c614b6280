use temporalio_macros::workflow;
use xylem_stateful::stateful;

#[workflow]
#[derive(Default)]
pub struct Deploy;

#[stateful(slots("default"))]
impl Deploy {}

fn main() {}
