"""The kubelet's device plugin API; the modules are generated from deviceplugin.proto."""
