//! The step for one network of somebody else's driver: a run of its program.

use wire::state::{OtherMade, OtherRecord, PluginRecord};

use super::Obstacle;
use super::step::{PluginRun, PluginVerb, Step};
use crate::observed::Observed;
use crate::request::PluginAttachment;

/// Plans an attachment: the step, and what goes into the journal.
///
/// # Errors
/// There is no such program.
pub(super) fn attach(
    attachment: &PluginAttachment,
    observed: &Observed,
) -> Result<(Step, OtherRecord), Obstacle> {
    let call = &attachment.call;
    let program = observed.plugins.get(&call.driver);
    let program = program.ok_or_else(|| Obstacle::NoPlugin(call.driver.clone()))?;
    let record = OtherRecord {
        network: attachment.id.clone(),
        name: attachment.network.clone(),
        netns: observed.netns.path.clone(),
        netns_inode: observed.netns.inode,
        default_metric: None,
        made: OtherMade::Plugin(PluginRecord {
            driver: call.driver.clone(),
            program: program.display().to_string(),
            input: call.input.clone(),
        }),
    };
    let run = PluginRun {
        driver: call.driver.clone(),
        program: Some(program.clone()),
        verb: PluginVerb::Setup,
        input: call.input.clone(),
    };
    Ok((Step::RunPlugin(run), record))
}
