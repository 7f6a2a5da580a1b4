"""The Trainyard DAG library: what every training DAG stands on."""
