//! Generated stubs with the transport limits set.

use std::time::Duration;

use tonic::Request;
use tonic::transport::Channel;

use crate::MESSAGE_BYTES_MAX;
use crate::v1::cluster_service_client::ClusterServiceClient;
use crate::v1::kv_service_client::KvServiceClient;
use crate::v1::maintenance_service_client::MaintenanceServiceClient;

pub(crate) fn kv(channel: Channel) -> KvServiceClient<Channel> {
    KvServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn cluster(channel: Channel) -> ClusterServiceClient<Channel> {
    ClusterServiceClient::new(channel)
}

pub(crate) fn maintenance(channel: Channel) -> MaintenanceServiceClient<Channel> {
    MaintenanceServiceClient::new(channel)
}

/// Wraps a message so that the server, too, knows how long the caller waits (`grpc-timeout`).
pub(crate) fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}
