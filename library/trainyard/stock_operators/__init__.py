"""Airflow's own KubernetesPodOperator and KubernetesJobOperator, in the platform's namespace for them.

DAGs from elsewhere know nothing of Pod Security, tolerations or /dev/shm here. What an author left out is
filled in, by Airflow's cluster policies; what an author has said stays.
"""
