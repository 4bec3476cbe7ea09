//! Grant type `device_code` (RFC 8628 3.4 and 3.5): the device polls until the person has decided.
//! INDIGO IAM knows no `slow_down`, and a denial there leaves the request pending until it expires.

use super::super::form::Form;
use super::super::options::{Character, Client};
use super::super::problem::Problem;
use super::super::scopes::resolve;
use super::super::state::{App, Decision, Grant, random_text};
use super::{DEVICE_CODE, Failure, Issued, Order, issue, wants_refresh};

pub(super) fn run(app: &App, client: &Client, form: &Form) -> Result<Issued, Failure> {
    let code = form
        .get("device_code")
        .ok_or(Problem::MissingParameter("device_code"))?
        .to_owned();
    let now_ms = app.clock.now_ms();
    let mut world = app.world();
    let device = world
        .devices
        .iter_mut()
        .find(|d| d.device_code == code && d.client == client.id)
        .ok_or_else(|| Problem::DeviceUnknown(code.clone()))?;
    if now_ms >= device.expires_ms {
        return Err(Problem::DeviceExpired(code).into());
    }
    let too_fast = device
        .last_poll_ms
        .is_some_and(|last| now_ms < last + device.interval_ms);
    device.last_poll_ms = Some(now_ms);
    let session = match &device.decision {
        Decision::Approved(session) => session.clone(),
        Decision::Used => return Err(Problem::DeviceUnknown(code).into()),
        Decision::Denied if app.options.character != Character::Iam => {
            return Err(Problem::DeviceDenied.into());
        }
        Decision::Open | Decision::Denied
            if too_fast && app.options.character != Character::Iam =>
        {
            device.interval_ms += 5000;
            return Err(Problem::DeviceSlowDown.into());
        }
        Decision::Open | Decision::Denied => return Err(Problem::DevicePending(code).into()),
    };
    let (scopes, targets) = (device.scopes.clone(), device.audiences.clone());
    let user = app.user(&session.user).ok_or(Problem::DeviceDenied)?;
    let resolved = resolve(app, client, Some(user), &scopes)?;
    let id = world.number();
    let grant = Grant {
        id,
        user: Some(user.name.clone()),
        client: client.id.clone(),
        scopes: resolved.kept.clone(),
        audiences: targets.clone(),
        nonce: None,
        auth_time: session.auth_time,
        created_ms: now_ms,
        sid: random_text(16),
        alive: true,
    };
    let issued = issue(
        app,
        &mut world,
        &Order {
            grant_type: DEVICE_CODE,
            client,
            grant: &grant,
            resolved: &resolved,
            audiences: &targets,
            id_token: true,
            refresh: wants_refresh(app, &resolved),
        },
    )?;
    if let Some(device) = world.devices.iter_mut().find(|d| d.device_code == code) {
        device.decision = Decision::Used;
    }
    world.grants.insert(id, grant);
    Ok(issued)
}
