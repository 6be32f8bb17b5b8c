"""The suite; its folders mirror the packages. Shared by all: tiny hosts and tiny SAEs."""
