"""The CustomResourceDefinitions, installed as meta_cni.crds: the schemas in them are the only ones."""
