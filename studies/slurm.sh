# Shell lines that run in each job before its processes start (slurm.setup). Edit them for your cluster, for example:
#   module load cuda/13.0
#   source /shared/venvs/lina_lab/bin/activate
#   export NCCL_SOCKET_IFNAME=ib0
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
