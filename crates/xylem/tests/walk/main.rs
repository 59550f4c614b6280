//! Every command, as those who operate an installation run them one after the other: a control plane
//! that several people share, as a process of its own, and every command as another one. A command that
//! nobody ran fails the test by its name.

mod accounts;
mod agents;
#[path = "../support/command.rs"]
mod command;
mod credentials;
mod installation;
mod log;
mod policies;
mod tools;
mod trees;
mod vault;

use installation::Installation;

#[tokio::test]
async fn every_command_does_what_it_says() {
    let installation = Installation::new().await;
    vault::makes_the_keys_of_backups(&installation).await;
    let server = installation.begins().await;
    let admin = installation.admin();

    agents::are_registered(&admin).await;
    agents::have_keys(&admin, &server).await;
    let ada = installation.person("ada", &server);
    accounts::a_person_signs_in(&admin, &ada, &server).await;
    accounts::a_person_enrols_a_device(&ada).await;
    let worker = installation.work(&admin, &server).await;

    tools::are_proposed_and_approved(&server, &ada).await;
    tools::are_imported(&server, &ada).await;
    policies::say_who_may_call(&server, &ada).await;
    policies::wait_for_approvals(&server, &ada).await;
    trees::grow(&server).await;
    trees::change_their_tokens(&server).await;
    trees::show_a_token_in_an_emergency(&admin, &ada, &server).await;
    credentials::are_stored_and_rotated(&admin, &server).await;
    credentials::are_obtained(&admin).await;

    log::tells_what_happened(&admin, &ada, &server).await;
    vault::replaces_its_keys(&admin).await;
    trees::end(&admin, &server).await;
    vault::finds_everything_well(&admin, &ada, &server).await;
    vault::backs_up(&admin).await;
    agents::leave(&admin, &ada, &server).await;
    accounts::a_person_signs_out(&ada).await;

    installation.holds_no_secret(&server);
    worker.ends().await;
    server.stop().await;
    vault::comes_back(&installation, &admin).await;
    installation.has_run_every_command();
}
